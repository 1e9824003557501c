"""The files of an indexed dataset, and what the .json among them says."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..io.checked_json import read_checked_json
from ..io.files import fingerprint_of
from ..text.vocab import SpeechTextVocab
from .loss_rules import LOSS_RULES

_SAMPLE_BYTES = 1 << 16
PACKINGS = ("cut", "whole")
COMPANIONS = (".sources.parquet", ".spans.parquet", ".reference.parquet")


def dataset_path(prefix: str | Path, suffix: str) -> Path:
    """`<prefix><suffix>`, where the prefix may contain dots."""
    return Path(f"{os.fspath(prefix)}{suffix}")


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
    """SHA-256 by suffix of every other file of the dataset."""
    contents_fingerprint: str = ""
    """`contents_fingerprint` of the files this was written for; not in older files."""
    text_vocab_fingerprint: str | None = None
    """`SpeechTextVocab.text_fingerprint`, where ids are those of text alone: then the dataset fits
    every vocabulary with that text part, whatever its codes. Not in older files."""
    has_checksum: bool = False
    """Whether the .json carries a checksum of itself; not among its keys."""

    def fits(self, vocab: SpeechTextVocab) -> bool:
        """Whether the ids mean in `vocab` what they meant where they were written."""
        if self.text_vocab_fingerprint is None:
            return self.vocab_fingerprint == vocab.fingerprint
        return self.text_vocab_fingerprint == vocab.text_fingerprint


_MANDATORY = ("loss_rule", "packing", "vocab_fingerprint")
_NEWER = {"contents_fingerprint", "text_vocab_fingerprint", "has_checksum"}


def read_facts(prefix: str | os.PathLike[str]) -> DatasetFacts:
    """Read `<prefix>.json`.

    Raises:
        DataError: the file is missing, damaged or was edited, or a value cannot be.
    """
    path = Path(f"{prefix}.json")
    if not path.exists():
        raise DataError(
            f"{path} is missing: it says which loss rule and packing the dataset wants; "
            "tools/preprocess_data.py and tools/build_dataset.py write it"
        )
    found = read_checked_json(path)
    content: dict[str, Any] = found.content
    fields = DatasetFacts.__dataclass_fields__
    # A file of ours has all of them; one written by hand may have the first three alone.
    expected = fields.keys() - _NEWER if "checksums" in content else set(_MANDATORY)
    if missing := expected - content.keys():
        raise DataError(f"{path} lacks {', '.join(sorted(missing))}; build the dataset again")
    values: dict[str, Any] = {
        key: value for key, value in content.items() if key in fields and key != "has_checksum"
    }
    for key, value in values.items():
        kind: Any = fields[key].type
        kind = kind.__name__ if isinstance(kind, type) else str(kind)
        if not _fits(value, kind):
            raise DataError(
                f"{path} is damaged: {key} is {str(value)[:80]!r}, expected {kind}; build the "
                "dataset again"
            )
    facts = DatasetFacts(**values, has_checksum=found.has_checksum)
    # one is not written without the other
    if facts.contents_fingerprint and not facts.has_checksum:
        raise DataError(f"{path} lost its checksum: it was edited; restore it, or build it again")
    for name, value, allowed in (
        ("loss_rule", facts.loss_rule, tuple(LOSS_RULES)),
        ("packing", facts.packing, PACKINGS),
    ):
        if value not in allowed:
            raise DataError(f"{path}: {name} is {value!r}; expected one of {', '.join(allowed)}")
    return facts


def require_counts(prefix: str, facts: DatasetFacts, tokens: int) -> None:
    """Refuse facts that do not count the dataset's `tokens`.

    Raises:
        DataError: says how the counts are given.
    """
    if tokens and not facts.text_tokens + facts.speech_tokens:
        raise DataError(
            f"{prefix}.json does not count the {tokens:,} tokens of the dataset: it was written by "
            f"hand; say what they are, as {prefix}:{tokens}text"
        )


def _fits(value: Any, kind: str) -> bool:
    """Whether a JSON value can be that of a field of DatasetFacts."""
    if kind.startswith("str"):
        return isinstance(value, str) or (value is None and "None" in kind)
    if kind.startswith("dict"):
        return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def without_checksum(facts: Mapping[Any, DatasetFacts]) -> str | None:
    """One line about datasets whose .json nothing vouches for; None if there are none."""
    older = [str(prefix) for prefix, found in facts.items() if not found.has_checksum]
    if not older:
        return None
    return (
        f"the .json of {', '.join(older)} has no checksum (it was written by an older version or "
        "by hand): what it says is taken as it is"
    )


def require_files(prefix: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The paths of `<prefix>.idx` and `<prefix>.bin`.

    Raises:
        DataError: one of them does not exist.
    """
    index, binary = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    for path in (index, binary):
        if not path.exists():
            raise DataError(
                f"dataset {prefix}: {path} does not exist; give --data-path the path without "
                f".bin or .idx{_near_matches(index)}"
            )
    return index, binary


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
