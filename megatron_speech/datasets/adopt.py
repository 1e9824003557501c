"""Indexed datasets that Megatron's own tools wrote, taken over as they are: a .json is added.

Nothing is copied or tokenised again. The ids alone do not say which tokenizer made them, so what
can be known is checked: ids, end tokens, and whether samples of the text come back as the same ids.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.facts import write_facts
from ..data.indexed import dataset_path
from ..data.indexed_files import COMPANIONS, DatasetFacts
from ..data.soundness import Index, file_checksum, read_index, sound_dataset
from ..errors import ConfigError, DataError, VocabularyError
from ..io.model_folders import resolve_model
from ..jobs.claims import exclusive
from ..jobs.progress import Progress
from ..text.build_vocab import open_vocab
from ..text.vocab import SpeechTextVocab
from .merge import find_prefixes

_BYTES_AT_A_TIME = 1 << 24
_SAMPLES, _SAMPLE_TOKENS = 128, 512
_CUT_TOKENS = 16  # at the end of a cut sample, where the tokenizer would have read on
_LEAST_SAME = 0.5


@dataclass(frozen=True, kw_only=True)
class AdoptConfig:
    """Text datasets to take over."""

    input: tuple[Path, ...]
    """Datasets (paths without .bin or .idx), or folders of them."""
    tokenizer_model: Path
    """Tokenizer that made them, as Megatron's tool was given it: a Hugging Face folder or id, a
    SentencePiece .model. A vocabulary folder that extends it does as well."""
    allow_missing_eod: bool = False
    """Take documents without an end token (made without --append-eod)."""

    def __post_init__(self) -> None:
        if not self.input:
            raise ConfigError("--input needs at least one dataset or folder of them")


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """A dataset that was taken over.

    `ended` of its documents end with the end token; `same_text` is the share of the sampled
    tokens that came back when their text was tokenised again. Both are None where the dataset had
    its .json already, which was checked instead.
    """

    prefix: Path
    facts: DatasetFacts
    ended: int | None = None
    same_text: float | None = None


def adopt(config: AdoptConfig) -> list[Adopted]:
    """Check every dataset and write its .json; one that has its .json is left as it is.

    Raises:
        DataError: damaged files, ids outside the text vocabulary, sentences for documents,
            documents without an end token.
        VocabularyError: another tokenizer made the ids.
        CheckpointError: `tokenizer_model` does not exist, here or on the hub.
        InUseError: another process writes one of the datasets.
    """
    vocab = open_vocab(resolve_model(config.tokenizer_model), or_tokenizer=True)
    adopted = []
    for prefix in find_prefixes(config.input):
        with exclusive(prefix):
            adopted.append(_adopt(prefix, vocab, config))
    return adopted


def _adopt(prefix: Path, vocab: SpeechTextVocab, config: AdoptConfig) -> Adopted:
    if dataset_path(prefix, ".json").exists():
        facts, _ = sound_dataset(prefix)
        if not facts.fits(vocab):
            raise VocabularyError(
                f"{prefix}.json says that vocabulary {facts.vocab_fingerprint} made the dataset, "
                f"{config.tokenizer_model} is {vocab.fingerprint}; give the other, or remove the "
                ".json to check the dataset anew"
            )
        return Adopted(prefix=prefix, facts=facts)
    for suffix in COMPANIONS:
        if (path := dataset_path(prefix, suffix)).exists():
            raise DataError(
                f"{path} is no file of Megatron's: the dataset was made here and not finished; "
                "build it again, or remove that file"
            )
    index = read_index(prefix)
    _require_whole_documents(prefix, index)
    same_text = _same_text(prefix, index, vocab)
    if same_text < _LEAST_SAME:
        raise VocabularyError(
            f"{prefix} was made with another tokenizer than {config.tokenizer_model}: of the "
            f"sampled tokens {same_text:.0%} come back when their text is tokenised again, "
            "expected nearly all; give --tokenizer-model the one that made it"
        )
    ended, checksum = _read(prefix, index, vocab, config)
    checksums = {".bin": checksum, ".idx": file_checksum(dataset_path(prefix, ".idx"))}
    counts = (len(index.lengths), int(np.sum(index.lengths, dtype=np.int64)), 0)
    extra = {"append_eod": ended == counts[0], "adopted": {"ended": ended, "same_text": same_text}}
    facts = write_facts(prefix, "text", vocab, counts, checksums, extra=extra)
    return Adopted(prefix=prefix, facts=facts, ended=ended, same_text=same_text)


def _require_whole_documents(prefix: Path, index: Index) -> None:
    sequences = np.diff(index.documents)
    if (sequences > 1).any():
        raise DataError(
            f"{prefix} holds several sequences per document, {len(index.lengths):,} in "
            f"{len(sequences):,}: it was made with --split-sentences, for BERT. Each would be read "
            "as a document; tokenise the corpus again without that flag"
        )


def _same_text(prefix: Path, index: Index, vocab: SpeechTextVocab) -> float:
    """The share of sampled tokens that are the same when their text is tokenised again.

    Special tokens do not count: Megatron's tool may put one before each text, and reads those that
    are spelled out in it.
    """
    tokens = np.memmap(dataset_path(prefix, ".bin"), dtype=index.dtype, mode="r")
    special = np.array(sorted({*vocab.text.special_ids(), vocab.eod_id}))
    chosen = np.linspace(0, len(index.lengths) - 1, min(_SAMPLES, len(index.lengths)))
    same, counted = 0, 0
    for document in chosen.astype(np.int64).tolist():
        start = int(index.pointers[document]) // index.dtype.itemsize
        length = min(int(index.lengths[document]), _SAMPLE_TOKENS)
        ids = np.asarray(tokens[start : start + length])
        if ids.min() < 0 or ids.max() >= _text_ids(vocab):
            _refuse_ids(prefix, ids, vocab)
        found = ids[~np.isin(ids, special)].tolist()
        again = vocab.text.encode(vocab.text.decode(found))
        kept = len(found) - (_CUT_TOKENS if length < index.lengths[document] else 0)
        if kept > 0:
            counted += kept
            same += kept * (again[:kept] == found[:kept])
    return same / counted if counted else 1.0


def _read(
    prefix: Path, index: Index, vocab: SpeechTextVocab, config: AdoptConfig
) -> tuple[int, str]:
    """Read every token once; returns how many documents end well, and the checksum of .bin."""
    last = index.starts + index.lengths - 1
    total = int(last[-1]) + 1
    ended, position, digest = 0, 0, hashlib.sha256()
    with (
        open(dataset_path(prefix, ".bin"), "rb") as stream,
        Progress(f"adopt {prefix.name}", total, "tokens") as progress,
    ):
        while data := stream.read(_BYTES_AT_A_TIME):
            ids = np.frombuffer(data, index.dtype)
            digest.update(data)
            if ids.min() < 0 or ids.max() >= _text_ids(vocab) or vocab.is_speech(ids).any():
                _refuse_ids(prefix, ids, vocab)
            ends = last[slice(*np.searchsorted(last, [position, position + len(ids)]))]
            ended += int((ids[ends - position] == vocab.eod_id).sum())
            position += len(ids)
            progress.advance(len(ids))
    if ended < len(index.lengths) and not config.allow_missing_eod:
        raise DataError(
            f"{ended:,} of {len(index.lengths):,} documents of {prefix} end with the end token "
            f"{vocab.eod_id} of {config.tokenizer_model}; if it was made without --append-eod, "
            "give --allow-missing-eod: documents then run into each other without a mark. If it "
            "has another end token, give a tokenizer whose eos_token that is"
        )
    return ended, digest.hexdigest()


def _text_ids(vocab: SpeechTextVocab) -> int:
    """Ids of the text tokenizer: what a vocabulary adds lies behind them."""
    return vocab.size - len(vocab.added)


def _refuse_ids(prefix: Path, ids: np.ndarray, vocab: SpeechTextVocab) -> None:
    speech = " (among them codes: speech is no text)" if vocab.is_speech(ids).any() else ""
    raise DataError(
        f"{prefix} holds token ids {ids.min()}..{ids.max()}{speech}; the text tokenizer has "
        f"0..{_text_ids(vocab) - 1}: give --tokenizer-model the one that made the dataset"
    )
