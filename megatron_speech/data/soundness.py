"""Whether a dataset is valid. Trainer, merge, verify and inspect all ask here.

`sound_dataset` reads the index and some hundred KiB of tokens, so it can be asked before every run;
`changed_files` reads every byte; ids outside the vocabulary are found where tokens are read.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import DataError, VocabularyError
from ..text.vocab import SpeechTextVocab
from .indexed_files import (
    COMPANIONS,
    DatasetFacts,
    contents_fingerprint,
    read_facts,
    require_files,
)

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_SEQUENCES_AT_A_TIME = 1 << 18
_ALL = (".bin", ".idx", *COMPANIONS)


@dataclass(frozen=True)
class Index:
    """An .idx file, mapped into memory.

    `lengths` (sequences,) are counted in tokens, `pointers` (sequences,) in bytes of the .bin file;
    `documents` (any + 1,) are the sequences that each document begins with, and how many there are.
    A sequence is what is trained on as a document; Megatron's own tools may write empty documents.
    """

    dtype: np.dtype
    lengths: np.ndarray
    pointers: np.ndarray
    documents: np.ndarray

    @cached_property
    def starts(self) -> np.ndarray:
        """(documents,) where each begins, counted in tokens."""
        return self.pointers // self.dtype.itemsize


def sound_dataset(
    prefix: str | os.PathLike[str], allow_empty: bool = False
) -> tuple[DatasetFacts, Index]:
    """The facts and the index of a dataset whose files fit each other.

    Documents follow each other without gap or overlap and fill the .bin file; the .json is the one
    that was written, for these files, and counts what they hold.

    Raises:
        DataError: something of that is not so.
    """
    require_files(prefix)
    facts, index = read_facts(prefix), read_index(prefix, allow_empty)
    if not facts.checksums:
        return facts, index  # written by hand, for files of Megatron's own tools
    total = int(np.sum(index.lengths, dtype=np.int64))
    found, said = (
        (len(index.lengths), total),
        (facts.documents, facts.text_tokens + facts.speech_tokens),
    )
    if found != said:
        raise DataError(
            f"{prefix}.json counts {said[0]:,} documents and {said[1]:,} tokens, {prefix}.idx "
            f"{found[0]:,} and {found[1]:,}: one of them belongs to another dataset; restore it, "
            "or build the dataset again"
        )
    if facts.contents_fingerprint not in ("", contents_fingerprint(prefix)):
        raise DataError(
            f"{prefix}.json was written for other .bin and .idx files than lie there; restore "
            "them, or build the dataset again"
        )
    return facts, index


def read_index(prefix: str | os.PathLike[str], allow_empty: bool = False) -> Index:
    """Read `<prefix>.idx` and check that it describes all of `<prefix>.bin`.

    Raises:
        DataError: a file is missing, cut short, empty, no index, or an index of what cannot be.
    """
    path, binary = require_files(prefix)
    with open(path, "rb") as stream:
        header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise DataError(f"{path} is no Megatron index; build the dataset again")
    _, version, code, sequences, documents = _HEADER.unpack(header)
    if version != 1 or code not in _DTYPES:
        raise DataError(
            f"{path} has version {version} and type code {code}; expected 1, and one of "
            f"{', '.join(map(str, _DTYPES))} (integers); build the dataset again"
        )
    _require_size(path, _HEADER.size + 12 * sequences + 8 * documents)
    if not sequences and not allow_empty:
        raise DataError(f"dataset {prefix} is empty; leave it out or build it again")
    after = np.memmap(path, np.uint8, "r")[_HEADER.size :]
    ends = np.cumsum([4 * sequences, 8 * sequences, 8 * documents]).tolist()
    index = Index(
        np.dtype(_DTYPES[code]),
        after[: ends[0]].view(np.int32),
        after[ends[0] : ends[1]].view(np.int64),
        after[ends[1] : ends[2]].view(np.int64),
    )
    total = _require_consecutive(path, index)
    _require_documents(path, index.documents, sequences)
    _require_size(binary, total * index.dtype.itemsize)
    return index


def _require_consecutive(path: Path, index: Index) -> int:
    """Check that documents have tokens and follow each other; returns how many tokens there are."""
    total = 0
    for first in range(0, len(index.lengths), _SEQUENCES_AT_A_TIME):
        part = slice(first, first + _SEQUENCES_AT_A_TIME)
        lengths = index.lengths[part].astype(np.int64)
        if lengths.min() < 1:
            wrong = int(np.argmax(lengths < 1))
            raise DataError(
                f"{path} is damaged: document {first + wrong} has {lengths[wrong]} tokens, "
                "expected at least 1; build the dataset again"
            )
        ends = np.cumsum(lengths)
        ends += total
        expected = (ends - lengths) * index.dtype.itemsize
        differs = index.pointers[part] != expected
        if differs.any():
            wrong = int(np.argmax(differs))
            raise DataError(
                f"{path} is damaged: document {first + wrong} begins at byte "
                f"{index.pointers[first + wrong]:,}, but the one before it ends at "
                f"{expected[wrong]:,}; build the dataset again"
            )
        total = int(ends[-1])
    return total


def _require_documents(path: Path, documents: np.ndarray, sequences: int) -> None:
    """Check that document indices begin at 0, never go back, and end with the last sequence."""
    sound = len(documents) > 0 and documents[0] == 0 and documents[-1] == sequences
    for first in range(0, len(documents) if sound else 0, _SEQUENCES_AT_A_TIME):
        sound = (
            sound and not (np.diff(documents[first : first + _SEQUENCES_AT_A_TIME + 1]) < 0).any()
        )
    if not sound:
        raise DataError(
            f"{path} is damaged: its document indices do not lead from 0 to {sequences}; build "
            "the dataset again"
        )


def _require_size(path: Path, expected: int) -> None:
    size = path.stat().st_size
    if size != expected:
        raise DataError(
            f"{path} has {size:,} bytes, but its index says {expected:,}: the file was cut short "
            "or belongs to another dataset; build the dataset again"
        )


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def changed_files(
    prefix: str | os.PathLike[str], facts: DatasetFacts, suffixes: Iterable[str] = _ALL
) -> Iterator[str]:
    """In words, which of the files are not those that the dataset was finished with."""
    for suffix in suffixes if facts.checksums else ():
        path, expected = Path(f"{prefix}{suffix}"), facts.checksums.get(suffix)
        if expected is None:
            if path.exists():
                yield f"{path} belongs to another dataset; remove it"
        elif not path.exists():
            yield f"{path} is missing"
        elif file_checksum(path) != expected:
            yield is_changed(path)


def is_changed(path: Path) -> str:
    """What to say of a file whose bytes are not those that were written."""
    return f"{path} is not the file that was written: its checksum differs; build it again"


def check_datasets(prefixes: list[str], vocab: SpeechTextVocab) -> dict[str, DatasetFacts]:
    """Check that every dataset is sound and that all were made for this vocabulary.

    Raises:
        DataError: damaged files, or speech of different speech tokenizers.
        VocabularyError: a dataset numbers tokens in another way than `vocab`.
    """
    speech: dict[str, str] = {}
    facts = {prefix: sound_dataset(prefix)[0] for prefix in dict.fromkeys(prefixes)}
    foreign = {p: f.vocab_fingerprint for p, f in facts.items() if not f.fits(vocab)}
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
