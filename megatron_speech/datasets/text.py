"""Text corpora to indexed datasets: Megatron's preprocess_data, in parallel parts."""

import functools
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.indexed import IndexedWriter, dataset_path, is_written
from ..errors import ConfigError, DataError
from ..io.files import read_json, write_json
from ..io.model_folders import resolve_model
from ..io.rejected import Rejected, write_rejected
from ..jobs.executors import ClusterConfig, Place, sole_job
from ..jobs.folders import remove_folder
from ..text.build_vocab import open_vocab
from ..text.corpora import (
    Document,
    Piece,
    find_texts,
    fingerprint_inputs,
    read_pieces,
    split_inputs,
    total_bytes,
)
from ..text.encoder import IdsDiffer, TextEncoder, can_be_fast, fast_engine
from ..text.tokenizers import post_processed
from ..text.vocab import SpeechTextVocab

_PART_BYTES = 16 << 20
_LEAST_PART_BYTES = 1 << 20  # where more workers than parts are there
_DOCUMENTS_AT_A_TIME = 1024
_CHARACTERS_AT_A_TIME = 4 << 20
_WORTH_COMPARING_BYTES = 1 << 20  # below, comparing gigatoken takes longer than it saves


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """Text to .bin/.idx. Flags are those of Megatron's tools/preprocess_data.py."""

    input: tuple[str, ...]
    """Corpus files, folders or patterns: .parquet, .jsonl, .jsonl.gz, .jsonl.zst."""
    output_prefix: Path
    """Files are <output-prefix>_<key>_document.bin, .idx and .json."""
    tokenizer_model: Path
    """Vocabulary folder (tools/build_vocab.py), or a tokenizer without codes: a Hugging Face folder
    or hub id, a SentencePiece .model. Text ids are the same, and the dataset fits every vocabulary
    that extends the tokenizer."""
    json_keys: tuple[str, ...] = ("text",)
    """Keys or columns to extract; each makes a dataset of its own."""
    append_eod: bool = False
    """Close every document with the end-of-document token."""
    workers: int = 1
    """Processes in all. The files are the same for any number."""
    gigatoken: bool = True
    """Tokenise byte-level BPE by gigatoken, after comparing its ids; the files are the same."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        if not self.input or not self.json_keys:
            raise ConfigError("--input and --json-keys need at least one value each")


@dataclass(frozen=True)
class TextDataset:
    """A finished dataset: its prefix, its counts and what was set aside, by reason."""

    prefix: Path
    documents: int
    tokens: int
    rejected: dict[str, int]


@dataclass(frozen=True)
class _Part:
    prefix: Path
    pieces: list[Piece]
    key: str
    config: PreprocessConfig
    fast: bool


def preprocess(config: PreprocessConfig) -> list[TextDataset]:
    """Tokenise a corpus; one dataset per key, documents in the order of the input.

    Finished parts of a stopped run are kept in `<prefix>.parts` and used again if corpus,
    vocabulary and flags are the same.

    Raises:
        DataError: no corpus there, a column missing, or not one usable document.
        VocabularyError: `tokenizer_model` is no vocabulary folder.
        InUseError: another process makes one of the datasets.
        Submitted: Slurm has it now.
    """
    config = replace(config, tokenizer_model=resolve_model(config.tokenizer_model))
    vocab = open_vocab(config.tokenizer_model, or_tokenizer=True)
    if added := post_processed(config.tokenizer_model):
        print(
            f"{config.tokenizer_model} puts {' '.join(added)} around every text; this is left out, "
            "as by --tokenizer-hf-no-include-special-tokens of Megatron-LM",
            file=sys.stderr,
        )
    paths = find_texts(config.input)
    size = total_bytes(paths)
    shares = split_inputs(paths, _number_of_parts(size, config.workers))
    settings = {
        "inputs": fingerprint_inputs(paths, config.workers),
        "parts": len(shares),
        "vocab_fingerprint": vocab.fingerprint,
        "append_eod": config.append_eod,
    }
    fast = config.gigatoken and size >= _WORTH_COMPARING_BYTES
    fast = fast and can_be_fast(vocab.text, config.tokenizer_model)
    datasets = []
    for key in config.json_keys:
        prefix = Path(f"{config.output_prefix}_{key}_document")
        folder = dataset_path(prefix, ".parts")
        parts = [
            _Part(folder / f"{number:05d}", pieces, key, config, fast)
            for number, pieces in enumerate(shares)
        ]
        with sole_job(prefix, config.cluster):
            try:
                rejected = _tokenise(parts, settings, folder)
            except IdsDiffer as difference:
                print(f"{difference}: starting again without it", file=sys.stderr)
                fast = False
                parts = [replace(part, fast=False) for part in parts]
                rejected = _tokenise(parts, settings, folder)
            datasets.append(_join(prefix, vocab, parts, rejected, config))
            remove_folder(folder)
    return datasets


def _number_of_parts(size: int, workers: int) -> int:
    """One for every worker at least, unless they are so small that a process costs more."""
    return max(1, -(-size // _PART_BYTES), min(workers, -(-size // _LEAST_PART_BYTES)))


def _tokenise(parts: list[_Part], settings: dict[str, Any], folder: Path) -> list[Rejected]:
    """Write all parts of one key and return what was set aside."""
    _keep_parts_of({**settings, "gigatoken": parts[0].fast}, folder)
    config = parts[0].config
    place = Place.of(preprocess, config, folder.with_suffix(".logs"))
    outcomes = place.run(
        _tokenise_part, parts, workers=config.workers, description=f"tokenise {folder.stem}"
    )
    return list(itertools.chain(*outcomes))


def _keep_parts_of(settings: dict[str, Any], folder: Path) -> None:
    """Keep the parts of a stopped run with these settings, remove those of any other."""
    path = folder / "settings.json"
    try:
        same = read_json(path) == settings
    except (OSError, ValueError):
        same = False
    if not same:
        remove_folder(folder)
        write_json(path, settings)


@functools.lru_cache(maxsize=1)  # opened once per process, not once per part
def _engine(model: Path, vocab_fingerprint: str) -> Any:
    return fast_engine(model)


def _tokenise_part(part: _Part) -> list[Rejected]:
    report = dataset_path(part.prefix, ".rejected.json")  # written last
    if is_written(part.prefix) and report.exists():
        return [Rejected(*item) for item in read_json(report)]
    model = part.config.tokenizer_model
    vocab = open_vocab(model, or_tokenizer=True)
    encoder = TextEncoder(vocab.text, _engine(model, vocab.fingerprint) if part.fast else None)
    rejected: list[Rejected] = []
    with IndexedWriter(part.prefix, vocab) as writer:
        for documents in _batches(part, rejected):
            tokens, lengths = encoder.encode([document.text for document in documents])
            if part.config.append_eod:
                tokens = np.insert(tokens, np.cumsum(lengths), vocab.eod_id)
                lengths = lengths + 1
            writer.add(tokens, lengths, [document.id for document in documents])
    writer.write_facts("text", None)
    write_json(report, [[item.id, item.reason, item.detail] for item in rejected])
    return rejected


def _batches(part: _Part, rejected: list[Rejected]) -> Iterator[list[Document]]:
    """Documents some megabytes at a time; a batch of huge ones must not fill the memory."""
    batch: list[Document] = []
    characters = 0
    for record in read_pieces(part.pieces, part.key):
        if isinstance(record, Rejected):
            rejected.append(record)
            continue
        batch.append(record)
        characters += len(record.text)
        if len(batch) == _DOCUMENTS_AT_A_TIME or characters >= _CHARACTERS_AT_A_TIME:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _join(
    prefix: Path,
    vocab: SpeechTextVocab,
    parts: list[_Part],
    rejected: list[Rejected],
    config: PreprocessConfig,
) -> TextDataset:
    with IndexedWriter(prefix, vocab) as writer:
        for part in parts:
            writer.add_indexed(part.prefix)
        counts = write_rejected(dataset_path(prefix, ".rejected.jsonl"), rejected)
        if not writer.documents:
            raise DataError(
                f"no usable document in {', '.join(config.input)}: {counts or 'no records'}"
            )
    extra: dict[str, Any] = {"rejected": counts, "append_eod": config.append_eod}
    facts = writer.write_facts("text", None, extra)
    return TextDataset(prefix, facts.documents, facts.text_tokens, counts)
