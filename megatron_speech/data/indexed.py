"""Megatron's indexed dataset (.bin and .idx), written as whole arrays and checked when read.

The files equal those of megatron.core's IndexedDatasetBuilder byte for byte, one sequence per
document. `<prefix>.sources.parquet` names the source of each document, where it has one.
`<prefix>.json` is written last, with checksums of the others: a dataset without it is unfinished.
Writing and checking need neither torch nor megatron; `open_indexed` returns core's own reader.
"""

import hashlib
import os
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..errors import DataError
from ..io.files import atomic_path
from ..io.parquet import open_parquet, parquet_writer, read_batches
from ..jobs.folders import remove_abandoned
from ..text.vocab import SpeechTextVocab
from .facts import write_facts
from .indexed_files import COMPANIONS, DatasetFacts, dataset_path
from .soundness import (
    Index,
    changed_files,
    file_checksum,
    is_changed,
    read_index,
    sound_dataset,
)

if TYPE_CHECKING:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

_HEADER = b"MMIDIDX\x00\x00"
_DTYPE_CODES = {4: np.int32, 8: np.uint16}
_CODE_OF_DTYPE = {np.dtype(dtype): code for code, dtype in _DTYPE_CODES.items()}
_COPY_BYTES = 1 << 24
_ROWS_AT_A_TIME = 1 << 16
SOURCE_SCHEMA = pa.schema({"source_id": pa.string()})


def token_dtype(vocabulary_size: int) -> np.dtype:
    """uint16 below 65,500 ids and int32 from there, as core's DType.optimal_dtype."""
    return np.dtype(np.uint16 if vocabulary_size < 65500 else np.int32)


def is_written(prefix: str | Path) -> bool:
    """Whether a dataset was written to its end and none of its files was removed since."""
    return all(dataset_path(prefix, suffix).exists() for suffix in (".json", ".bin", ".idx"))


class IndexedWriter:
    """Writes documents in batches of flat arrays; .bin and .idx appear when the block ends well.

    A dataset found there stays whole until then.

    Args:
        prefix: files are `<prefix>.bin` and `<prefix>.idx`.
        vocab: decides the dtype; an id outside its padded size is refused.

    Raises:
        DataError: token ids outside the vocabulary, or lengths that do not add up.
    """

    def __init__(self, prefix: str | Path, vocab: SpeechTextVocab):
        self.prefix = prefix
        self.speech_tokens = 0
        self.tokens = 0
        self._vocab = vocab
        # a tokenizer without codes: the dtype of Megatron's own tool
        self._size = vocab.padded_size if vocab.num_codes else vocab.text.size
        self._dtype = token_dtype(self._size)
        self._lengths: list[np.ndarray] = []
        self._sources: Any = None
        self._companions: set[str] = set()
        self._unwritten: list[str] = []
        self._named = 0
        self._digests = {suffix: hashlib.sha256() for suffix in (".bin", ".idx")}
        self._stack = ExitStack()

    def __enter__(self) -> "IndexedWriter":
        for suffix in (".bin", ".idx", *COMPANIONS):
            remove_abandoned(dataset_path(self.prefix, suffix))
        self._index_path = self._stack.enter_context(atomic_path(dataset_path(self.prefix, ".idx")))
        bin_path = self._stack.enter_context(atomic_path(dataset_path(self.prefix, ".bin")))
        self._bin = self._stack.enter_context(open(bin_path, "wb"))
        return self

    @property
    def documents(self) -> int:
        return sum(len(lengths) for lengths in self._lengths)

    def add(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray | Sequence[int],
        sources: Sequence[str] | None = None,
    ) -> None:
        """Append documents: `tokens` (n,) is their concatenation, `lengths` (m,) sums to n.

        `sources` (m,) names where each comes from; it is given for all documents or for none.
        Documents without tokens are left out: there is nothing to train on.
        """
        lengths = np.asarray(lengths, dtype=np.int32)
        if lengths.sum() != len(tokens) or (lengths < 0).any():
            raise DataError(f"lengths sum to {lengths.sum()} but there are {len(tokens)} tokens")
        if not len(tokens):
            return
        self._require_ids(tokens)
        self._write_tokens(np.ascontiguousarray(tokens, dtype=self._dtype).data)
        filled = lengths > 0
        self._lengths.append(lengths[filled])
        sources = list(sources or ())
        self._add_sources(sources if filled.all() else list(compress(sources, filled)))
        self.tokens += len(tokens)
        self.speech_tokens += int(self._vocab.is_speech(tokens).sum())

    def add_documents(
        self, documents: Sequence[np.ndarray], sources: Sequence[str] | None = None
    ) -> None:
        """Append documents given one by one as id arrays."""
        if documents:
            self.add(np.concatenate(documents), [len(document) for document in documents], sources)

    def _write_tokens(self, data: Any) -> None:
        self._bin.write(data)
        self._digests[".bin"].update(data)

    def _add_sources(self, sources: list[str]) -> None:
        """Row groups of one size: the file is the same however its documents came."""
        self._unwritten += sources
        self._named += len(sources)
        while len(self._unwritten) >= _ROWS_AT_A_TIME:
            self._write_sources(self._unwritten[:_ROWS_AT_A_TIME])
            del self._unwritten[:_ROWS_AT_A_TIME]

    def companion(self, suffix: str, schema: pa.Schema) -> Any:
        """A Parquet writer of a file beside the dataset, which appears when .bin and .idx do."""
        temporary = self._stack.enter_context(atomic_path(dataset_path(self.prefix, suffix)))
        self._companions.add(suffix)
        return self._stack.enter_context(parquet_writer(temporary, schema))

    def _write_sources(self, sources: list[str]) -> None:
        if self._sources is None:
            self._sources = self.companion(".sources.parquet", SOURCE_SCHEMA)
        self._sources.write_table(pa.table([pa.array(sources, pa.string())], SOURCE_SCHEMA))

    def _write_index(self) -> None:
        if self._named not in (0, self.documents):
            raise DataError(
                f"{self._named} of {self.documents} documents have a source; expected all"
            )
        if self._unwritten:
            self._write_sources(self._unwritten)
        with open(self._index_path, "wb") as stream:
            lengths = np.concatenate([np.zeros(0, np.int32), *self._lengths])
            for data in _index_parts(lengths, self._dtype):
                stream.write(data)
                self._digests[".idx"].update(data)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is None:
            try:
                self._write_index()
                self._give_up_the_old()
            except (OSError, DataError) as failure:
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._stack.__exit__(kind, error, traceback)

    def _give_up_the_old(self) -> None:
        """Remove a dataset found there, what says that it is finished before all else."""
        unwritten = sorted(set(COMPANIONS) - self._companions)
        for suffix in (".json", *unwritten):
            dataset_path(self.prefix, suffix).unlink(missing_ok=True)

    def write_facts(
        self,
        kind: str,
        tokenizer_fingerprint: str | None,
        extra: dict[str, Any] | None = None,
        like: DatasetFacts | None = None,
    ) -> DatasetFacts:
        """Write `<prefix>.json`, which declares the dataset finished, and return its facts."""
        checksums = {suffix: digest.hexdigest() for suffix, digest in self._digests.items()}
        for suffix in COMPANIONS:
            if (path := dataset_path(self.prefix, suffix)).exists():
                checksums[suffix] = file_checksum(path)
        counts = (self.documents, self.tokens, self.speech_tokens)
        return write_facts(
            self.prefix, kind, self._vocab, counts, checksums, tokenizer_fingerprint, extra, like
        )

    def add_indexed(self, prefix: str | Path, *, name_documents: bool = False) -> None:
        """Append a finished dataset of the same vocabulary by copying its bytes.

        With `name_documents` the source of a document that has none is its dataset and number.

        Raises:
            DataError: it is not sound (`sound_dataset`), a file is not the one that was written, or
                it is of another vocabulary.
        """
        facts, index = sound_dataset(prefix, allow_empty=True)
        for problem in changed_files(prefix, facts, (".idx", *COMPANIONS)):
            raise DataError(problem)
        if not len(index.lengths):
            return
        if not facts.fits(self._vocab):
            raise DataError(f"{prefix} was made with another vocabulary; build it again")
        self._copy_tokens(dataset_path(prefix, ".bin"), facts, index.dtype)
        sources = dataset_path(prefix, ".sources.parquet")
        if sources.exists():
            for batch in read_batches(open_parquet(sources), sources, _ROWS_AT_A_TIME):
                self._add_sources(batch["source_id"].to_pylist())
        elif name_documents:
            name = Path(prefix).name
            self._add_sources([f"{name}:{number}" for number in range(len(index.lengths))])
        self._lengths.append(index.lengths)

    def _copy_tokens(self, path: Path, facts: DatasetFacts, dtype: np.dtype) -> None:
        """Append a .bin file, comparing what passes through with its checksum.

        A text dataset may be of a smaller or larger vocabulary, and so of another dtype.
        """
        same = dtype == self._dtype
        is_first, digest = same and not self.tokens, hashlib.sha256()
        with open(path, "rb") as part:
            while data := part.read(_COPY_BYTES):
                tokens = np.frombuffer(data, dtype)
                if not (facts.has_checksum and same):
                    self._require_ids(tokens)
                self._write_tokens(data if same else tokens.astype(self._dtype).data)
                self.tokens += len(tokens)
                if not facts.has_checksum:
                    self.speech_tokens += int(self._vocab.is_speech(tokens).sum())
                if not is_first:  # else the digest of what is written is that of the part
                    digest.update(data)
        if facts.has_checksum:
            self.speech_tokens += facts.speech_tokens
        found = self._digests[".bin"] if is_first else digest
        if facts.checksums and facts.checksums.get(".bin") != found.hexdigest():
            raise DataError(is_changed(path))

    def _require_ids(self, tokens: np.ndarray) -> None:
        lowest, highest = tokens.min(), tokens.max()
        if lowest < 0 or highest >= self._size:
            raise DataError(
                f"token ids {lowest}..{highest} do not fit a vocabulary of "
                f"{self._size}; were they made with another vocabulary?"
            )


def _index_parts(lengths: np.ndarray, dtype: np.dtype) -> list[Any]:
    """The bytes of an .idx file, piece by piece."""
    pointers = np.zeros(len(lengths), np.int64)
    np.cumsum(lengths[:-1], dtype=np.int64, out=pointers[1:])
    pointers *= dtype.itemsize
    header = _HEADER + struct.pack("<QB", 1, _CODE_OF_DTYPE[dtype])
    header += struct.pack("<QQ", len(lengths), len(lengths) + 1)
    return [header, lengths.data, pointers.data, np.arange(len(lengths) + 1, dtype=np.int64).data]


def open_tokens(prefix: str | Path) -> tuple[Index, np.ndarray]:
    """The checked index and the memory-mapped token ids (n,) of a dataset."""
    index = read_index(prefix)
    return index, map_tokens(prefix, index)


def map_tokens(prefix: str | Path, index: Index) -> np.ndarray:
    """The token ids (n,) of a dataset that `index` was read of, mapped into memory."""
    return np.memmap(dataset_path(prefix, ".bin"), dtype=index.dtype, mode="r")


def open_indexed(prefix: str | Path) -> "IndexedDataset":
    """Check a dataset and open it with Megatron-Core's own reader.

    Raises:
        DataError: a file is missing, cut short, or no indexed dataset.
    """
    read_index(prefix)
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    return IndexedDataset(os.fspath(prefix))
