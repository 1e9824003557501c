"""Code shards of one task read as a stream, matched with the spans that asked for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.code_shards import read_code_table
from ..errors import DataError
from ..io.rejected import Rejected
from .make_codes import read_report

_UNKNOWN = "no_codes"


@dataclass(frozen=True)
class TakenCodes:
    """Codes of consecutive spans: `codes` (c,) flat, `lengths` (s,), 0 where rejected.

    `shards` (s,) and `batches` (s,) say in which shard, by its number in `names`, and in which
    batch each was made; -1 where no batch is known.
    """

    codes: np.ndarray
    lengths: np.ndarray
    shards: np.ndarray
    batches: np.ndarray
    names: list[str]
    rejected: list[Rejected]


class CodeStream:
    """Hands out the records of some shards in order. One shard is in memory at a time."""

    def __init__(self, shards: Sequence[Path], folder: Path):
        self._shards = list(shards)
        self._names = [path.name for path in shards]
        self._folder = folder
        self._opened = 0
        self._position = 0
        self._ids: pa.Array = pa.array([], pa.string())
        self._texts: pa.Array = self._ids
        self._codes = np.zeros(0, np.int64)
        self._offsets = np.zeros(1, np.int64)
        self._batches = np.zeros(0, np.int64)
        self._reasons: list[str | None] = []

    def take(self, ids: pa.Array) -> TakenCodes:
        """The next `len(ids)` records, which must have these ids.

        Raises:
            DataError: the shards hold other records, or too few.
        """
        codes, lengths, shards, batches = ([np.zeros(0, np.int64)] for _ in range(4))
        rejected: list[Rejected] = []
        done = 0
        while done < len(ids):
            while self._position == len(self._ids):
                self._open_next(ids[done].as_py())
            count = min(len(ids) - done, len(self._ids) - self._position)
            self._require_same(ids.slice(done, count))
            rows = slice(self._position, self._position + count)
            first, last = self._offsets[rows.start], self._offsets[rows.stop]
            codes.append(self._codes[first:last])
            lengths.append(np.diff(self._offsets[rows.start : rows.stop + 1]))
            shards.append(np.full(count, self._opened - 1))
            batches.append(self._batches[rows])
            for row in (rows.start + np.flatnonzero(lengths[-1] == 0)).tolist():
                reason, text = self._reasons[row] or _UNKNOWN, self._texts[row].as_py() or ""
                rejected.append(Rejected(self._ids[row].as_py(), reason, text))
            self._position, done = rows.stop, done + count
        flat = [np.concatenate(pieces) for pieces in (codes, lengths, shards, batches)]
        return TakenCodes(*flat, names=self._names, rejected=rejected)

    def _require_same(self, wanted: pa.Array) -> None:
        found = self._ids.slice(self._position, len(wanted))
        if not found.equals(wanted):
            other = pc.fill_null(pc.not_equal(found, wanted), True)
            row = int(np.argmax(other.to_numpy(zero_copy_only=False)))
            raise DataError(
                f"{self._folder / self._names[self._opened - 1]} holds {found[row].as_py()!r} "
                f"where the plan has {wanted[row].as_py()!r}: the codes belong to another plan; "
                "generate them again"
            )

    def require_end(self) -> None:
        """Raises DataError if records are left over."""
        if self._position < len(self._ids) or self._opened < len(self._shards):
            raise DataError(
                f"{self._folder} holds more codes than the plan asks for; they belong to another "
                "plan; generate them again"
            )

    def _open_next(self, wanted: str) -> None:
        if self._opened == len(self._shards):
            raise DataError(
                f"{self._folder} ends before span {wanted!r}: the codes belong to another plan; "
                "generate them again"
            )
        path = self._shards[self._opened]
        self._opened += 1
        self._position = 0
        _, table = read_code_table(path)
        self._ids, self._texts = table["id"].combine_chunks(), table["text"].combine_chunks()
        lists = table["codes"].combine_chunks()
        self._codes = lists.flatten().to_numpy(zero_copy_only=False)
        self._offsets = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())])
        none = [None] * len(self._ids)
        batches, self._reasons = read_report(self._folder, path.name) or (none, none)
        self._batches = np.array([-1 if batch is None else batch for batch in batches], np.int64)
