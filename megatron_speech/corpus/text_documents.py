"""Text corpora to indexed datasets: Megatron's preprocess_data, in parallel parts."""

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..data.indexed import IndexedWriter, dataset_path
from ..errors import ConfigError, DataError
from ..files import read_json, write_json
from ..rejected import Rejected, write_rejected
from ..vocab import SpeechTextVocab
from .sources import (
    Document,
    Piece,
    find_texts,
    fingerprint_inputs,
    read_pieces,
    split_inputs,
    total_bytes,
)
from .tasks import run_tasks

_PART_BYTES = 16 << 20
_DOCUMENTS_AT_A_TIME = 1024


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """Text to .bin/.idx. Flags are those of Megatron's tools/preprocess_data.py."""

    input: tuple[str, ...]
    """Corpus files, folders or patterns: .parquet, .jsonl, .jsonl.gz, .jsonl.zst."""
    output_prefix: Path
    """Files are <output-prefix>_<key>_document.bin, .idx and .json."""
    tokenizer_model: Path
    """Vocabulary folder (tools/build_vocab.py)."""
    tokenizer_type: Literal["HuggingFaceTokenizer", "SentencePieceTokenizer"] = (
        "HuggingFaceTokenizer"
    )
    """Taken for Megatron's sake; the folder itself says what its tokenizer is."""
    json_keys: tuple[str, ...] = ("text",)
    """Keys or columns to extract; each makes a dataset of its own."""
    append_eod: bool = False
    """Close every document with the end-of-document token."""
    workers: int = 1
    """Processes. The files are the same for any number."""

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


def preprocess(config: PreprocessConfig) -> list[TextDataset]:
    """Tokenise a corpus; one dataset per key, documents in the order of the input.

    Finished parts of a stopped run are kept in `<prefix>.parts` and used again if corpus,
    vocabulary and flags are the same.

    Raises:
        DataError: no corpus there, a column missing, or not one usable document.
        VocabularyError: `tokenizer_model` is no vocabulary folder.
    """
    vocab = SpeechTextVocab.from_pretrained(config.tokenizer_model)
    paths = find_texts(config.input)
    shares = split_inputs(paths, max(1, -(-total_bytes(paths) // _PART_BYTES)))
    settings = {
        "inputs": fingerprint_inputs(paths, config.workers),
        "parts": len(shares),
        "vocab_fingerprint": vocab.fingerprint,
        "append_eod": config.append_eod,
    }
    datasets = []
    for key in config.json_keys:
        prefix = Path(f"{config.output_prefix}_{key}_document")
        folder = dataset_path(prefix, ".parts")
        _keep_parts_of(settings, folder)
        parts = [
            _Part(folder / f"{number:05d}", pieces, key, config)
            for number, pieces in enumerate(shares)
        ]
        outcomes = run_tasks(
            _tokenise_part, parts, workers=config.workers, description=f"tokenise {prefix.name}"
        )
        datasets.append(_join(prefix, vocab, parts, list(itertools.chain(*outcomes)), config))
        shutil.rmtree(folder)
    return datasets


def _keep_parts_of(settings: dict[str, Any], folder: Path) -> None:
    """Keep the parts of a stopped run with these settings, remove those of any other."""
    path = folder / "settings.json"
    try:
        same = read_json(path) == settings
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(path, settings)


def _tokenise_part(part: _Part) -> list[Rejected]:
    report = dataset_path(part.prefix, ".rejected.json")  # written last
    if report.exists():
        return [Rejected(*item) for item in read_json(report)]
    vocab = SpeechTextVocab.from_pretrained(part.config.tokenizer_model)
    records = read_pieces(part.pieces, part.key)
    rejected: list[Rejected] = []
    with IndexedWriter(part.prefix, vocab) as writer:
        while batch := list(itertools.islice(records, _DOCUMENTS_AT_A_TIME)):
            rejected += [record for record in batch if isinstance(record, Rejected)]
            texts = [record.text for record in batch if isinstance(record, Document)]
            writer.add(*tokenise(vocab, texts, append_eod=part.config.append_eod))
    writer.write_facts("text", None)
    write_json(report, [[item.id, item.reason, item.detail] for item in rejected])
    return rejected


def tokenise(
    vocab: SpeechTextVocab, texts: Sequence[str], *, append_eod: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of several texts, flat (n,) int64, and their lengths (texts,)."""
    encoded = vocab.text.encode_batch(texts)
    if append_eod:
        for ids in encoded:
            ids.append(vocab.eod_id)
    lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
    flat = itertools.chain.from_iterable(encoded)
    return np.fromiter(flat, dtype=np.int64, count=int(lengths.sum())), lengths


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
