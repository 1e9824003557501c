"""What stands beside an indexed dataset, and checks before training starts on it."""

import os
import struct
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, VocabularyError
from ..files import fingerprint_of, read_json
from ..vocab import SpeechTextVocab
from .loss_rules import LOSS_RULES

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_ITEM_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 8, 7: 4, 8: 2}
_SAMPLE_BYTES = 1 << 16
PACKINGS = ("cut", "whole")
COMPANIONS = (".sources.parquet", ".spans.parquet")


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """The contents of `<prefix>.json`."""

    loss_rule: str
    packing: str
    vocab_fingerprint: str
    tokenizer_fingerprint: str | None = None
    kind: str = ""
    documents: int = 0
    text_tokens: int = 0
    speech_tokens: int = 0
    checksums: dict[str, str] = field(default_factory=dict)
    """SHA-256 by suffix of every file of the dataset."""


def read_facts(prefix: str | os.PathLike[str]) -> DatasetFacts:
    """Read `<prefix>.json`.

    Raises:
        DataError: the file is missing, or a value is not one of those that exist.
    """
    path = Path(f"{prefix}.json")
    if not path.exists():
        raise DataError(
            f"{path} is missing: it says which loss rule and packing the dataset wants; "
            "tools/preprocess_data.py and tools/build_dataset.py write it"
        )
    content: dict[str, Any] = read_json(path)
    missing = {"loss_rule", "packing", "vocab_fingerprint"} - content.keys()
    if missing:
        raise DataError(f"{path} lacks {', '.join(sorted(missing))}; build the dataset again")
    known = DatasetFacts.__dataclass_fields__
    facts = DatasetFacts(**{key: value for key, value in content.items() if key in known})
    for name, value, allowed in (
        ("loss_rule", facts.loss_rule, tuple(LOSS_RULES)),
        ("packing", facts.packing, PACKINGS),
    ):
        if value not in allowed:
            raise DataError(f"{path}: {name} is {value!r}; expected one of {', '.join(allowed)}")
    return facts


def check_files(prefix: str | os.PathLike[str]) -> None:
    """Compare the sizes of `<prefix>.idx` and `<prefix>.bin` with what the index says.

    Raises:
        DataError: a file is missing, is no index, or is cut short.
    """
    index, binary = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    for path in (index, binary):
        if not path.exists():
            raise DataError(
                f"dataset {prefix}: {path} does not exist; give --data-path the path without "
                f".bin or .idx{_near_matches(index)}"
            )
    with open(index, "rb") as stream:
        header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise DataError(f"{index} is no Megatron index; build the dataset again")
    _, _, code, sequences, documents = _HEADER.unpack(header)
    expected = _HEADER.size + 12 * sequences + 8 * documents
    _require_size(index, expected)
    if not sequences:
        raise DataError(f"dataset {prefix} is empty; leave it out or build it again")
    lengths = np.memmap(index, np.int32, "r", offset=_HEADER.size, shape=(sequences,))
    if code not in _ITEM_SIZES:
        raise DataError(f"{index} holds the unknown type code {code}; build the dataset again")
    _require_size(binary, int(np.sum(lengths, dtype=np.int64)) * _ITEM_SIZES[code])


def _near_matches(index: Path) -> str:
    """What else lies where a dataset was looked for."""
    there = [path.stem for path in sorted(index.parent.glob("*.idx"))]
    if not there:
        return f" ({index.parent} holds no dataset)"
    near = get_close_matches(index.stem, there, n=3, cutoff=0.4) or there[:3]
    return f" (nearest there: {', '.join(str(index.parent / name) for name in near)})"


def contents_fingerprint(prefix: str | os.PathLike[str]) -> str:
    """16 hex digits by which a dataset is known wherever it lies: sizes, and samples of both files.

    Reads a few hundred KiB whatever the size of the dataset.
    """
    index, binary = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    parts: list[bytes | str] = []
    for path in (index, binary):
        size = path.stat().st_size
        parts.append(str(size))
        with open(path, "rb") as stream:
            for place in np.linspace(0, max(size - _SAMPLE_BYTES, 0), 5, dtype=np.int64).tolist():
                stream.seek(place)
                parts.append(stream.read(_SAMPLE_BYTES))
    return fingerprint_of(*parts)


def _require_size(path: Path, expected: int) -> None:
    size = path.stat().st_size
    if size != expected:
        raise DataError(
            f"{path} has {size:,} bytes, but its index says {expected:,}: the file was cut short "
            "or belongs to another dataset; build the dataset again"
        )


def check_datasets(prefixes: list[str], vocab: SpeechTextVocab) -> dict[str, DatasetFacts]:
    """Check the files of every dataset and that all were made for this vocabulary.

    Raises:
        DataError: damaged files, or speech of different speech tokenizers.
        VocabularyError: a dataset numbers tokens in another way than `vocab`.
    """
    facts: dict[str, DatasetFacts] = {}
    speech: dict[str, str] = {}
    for prefix in dict.fromkeys(prefixes):
        check_files(prefix)
        facts[prefix] = read_facts(prefix)
    foreign = {p: f.vocab_fingerprint for p, f in facts.items()}
    foreign = {p: made for p, made in foreign.items() if made != vocab.fingerprint}
    if foreign:
        listed = "; ".join(f"dataset {p} was made with vocabulary {m}" for p, m in foreign.items())
        raise VocabularyError(
            f"{listed}; but --vocab is {vocab.fingerprint}, with which {len(facts) - len(foreign)} "
            f"of {len(facts)} datasets were made; build all of them with one vocabulary"
        )
    for prefix, found in facts.items():
        vocab.require_speech_tokenizer(
            found.tokenizer_fingerprint, f"dataset {prefix}", "the model that --vocab comes from"
        )
        if found.tokenizer_fingerprint is not None:
            speech[found.tokenizer_fingerprint] = prefix
    if len(speech) > 1:
        listed = ", ".join(f"{prefix} ({fingerprint})" for fingerprint, prefix in speech.items())
        raise DataError(
            f"the blend mixes codes of different speech tokenizers: {listed}; tokenize all audio "
            "with one speech tokenizer"
        )
    return facts
