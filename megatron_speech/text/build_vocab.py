"""Make a speech-text vocabulary: a text tokenizer, trained or given, plus codes."""

import functools
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, DataError
from ..io.files import read_json_object, write_json, write_text
from ..io.model_folders import resolve_model
from ..io.rejected import Rejected, describe_counts, write_rejected
from ..jobs.claims import exclusive
from .corpora import Document, find_texts, read_pieces, split_inputs
from .vocab import SpeechTextVocab
from .vocab_facts import FACTS_FILE

END_OF_TEXT = "<|endoftext|>"
_BYTES = 256
_SHUFFLE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class VocabConfig:
    """A text tokenizer and a number of codes to a vocabulary folder."""

    output: Path
    """Vocabulary folder to write."""
    tokenizer: Path | None = None
    """Hugging Face tokenizer folder or SentencePiece .model to extend, or a model of the Hugging
    Face hub (OWNER/NAME, OWNER/NAME@REVISION)."""
    train_bpe: int | None = None
    """Instead: train a byte-level BPE with this many ids on --input."""
    input: tuple[str, ...] = ()
    """Corpus for --train-bpe."""
    text_key: str = "text"
    """Column or key that holds the text."""
    most_documents: int = 200_000
    """Documents to train on at most, drawn at random (always the same ones)."""
    num_codes: int | None = None
    """Codebook size of the speech tokenizer."""
    speech_tokenizer: Path | None = None
    """Instead: a speech tokenizer folder that says it."""

    def __post_init__(self) -> None:
        if (self.tokenizer is None) == (self.train_bpe is None):
            raise ConfigError("give either --tokenizer or --train-bpe")
        if (self.num_codes is None) == (self.speech_tokenizer is None):
            raise ConfigError("give either --num-codes or --speech-tokenizer")
        if self.train_bpe is not None and not self.input:
            raise ConfigError("--train-bpe needs a corpus: give --input")
        if self.train_bpe is not None and self.train_bpe <= _BYTES + 1:
            raise ConfigError(
                f"--train-bpe is {self.train_bpe}; expected more than {_BYTES + 1}: every byte and "
                "the end of text have an id"
            )


def build_vocab(config: VocabConfig) -> SpeechTextVocab:
    """Write the vocabulary folder and return it as read back.

    Records of the corpus that are no text are listed in `<output>/rejected.jsonl` and counted on
    stderr.

    Raises:
        DataError: the corpus is missing or has no usable text.
        CheckpointError: `tokenizer` does not exist, here or on the hub.
        VocabularyError: `tokenizer` is none, or holds another number of codes.
        ConfigError: the speech tokenizer folder does not say its codebook size.
        InUseError: another process writes the folder.
    """
    with exclusive(config.output, inside=True):
        return _build(config)


def _build(config: VocabConfig) -> SpeechTextVocab:
    facts = config.output / FACTS_FILE
    num_codes = config.num_codes or _codebook_size(config.speech_tokenizer)
    if config.train_bpe is not None:
        texts = _sample(config)
        facts.unlink(missing_ok=True)  # they come last, and are of another tokenizer until then
        train_bpe(texts, config.train_bpe, config.output)
        source = config.output
    else:
        assert config.tokenizer is not None
        source = resolve_model(config.tokenizer)
    vocab = SpeechTextVocab.extend(source, num_codes)
    if source.resolve() != config.output.resolve():
        facts.unlink(missing_ok=True)
    vocab.save_pretrained(config.output)
    return SpeechTextVocab.from_pretrained(config.output)


def open_vocab(folder: Path, *, or_tokenizer: bool = False) -> SpeechTextVocab:
    """Read a vocabulary folder, once per process as long as its tokenizer is the same file.

    With `or_tokenizer` it may be a text tokenizer without codes, a folder or a SentencePiece model.

    Raises:
        VocabularyError: the folder is no vocabulary.
    """
    path = folder / "tokenizer.json"
    return _open_vocab(folder, path.stat().st_mtime_ns if path.exists() else 0, or_tokenizer)


@functools.lru_cache(maxsize=1)
def _open_vocab(folder: Path, changed: int, or_tokenizer: bool) -> SpeechTextVocab:
    read = SpeechTextVocab.as_it_is if or_tokenizer else SpeechTextVocab.from_pretrained
    return read(folder)


def train_bpe(texts: Iterable[str], size: int, folder: Path) -> None:
    """Train a byte-level BPE of `size` ids, id 0 the end of text, and write it to `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_OF_TEXT,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
        },
    )
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))  # last: it is looked for


def _sample(config: VocabConfig) -> list[str]:
    """Reservoir sample of the corpus, the same on every run."""
    pieces = split_inputs(find_texts(config.input), 1)[0]
    chosen: list[str] = []
    generator = random.Random(_SHUFFLE_SEED)
    seen = 0
    rejected: list[Rejected] = []
    for record in read_pieces(pieces, config.text_key):
        if not isinstance(record, Document):
            rejected.append(record)
            continue
        seen += 1
        if len(chosen) < config.most_documents:
            chosen.append(record.text)
        elif (place := generator.randrange(seen)) < config.most_documents:
            chosen[place] = record.text
    path = config.output / "rejected.jsonl"
    counts = write_rejected(path, rejected)
    if not chosen:
        raise DataError(
            f"no usable text in {', '.join(config.input)}: {describe_counts(counts)} set aside"
        )
    if counts:
        print(
            f"{len(rejected):,} of {seen + len(rejected):,} records are set aside: "
            f"{describe_counts(counts)}; see {path}",
            file=sys.stderr,
        )
    return chosen


def _codebook_size(folder: Path | None) -> int:
    path = Path(folder or "") / "config.json"
    if not path.exists():
        raise ConfigError(f"{path} does not exist; give a speech tokenizer folder")
    size = read_json_object(path).get("quantize_vocab_size")
    if not isinstance(size, int):
        raise ConfigError(f"{path} names no quantize_vocab_size; give --num-codes")
    return size
