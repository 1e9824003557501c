"""Code shards of one task read as a stream, matched with the spans that asked for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.code_shards import CodeRecord, read_code_shard
from ..errors import DataError
from ..rejected import Rejected
from .generate import read_report

_UNKNOWN = "no_codes"


@dataclass(frozen=True)
class TakenCodes:
    """Codes of consecutive spans: `codes` (c,) flat, `lengths` (s,), 0 where rejected.

    `shards` and `batches` (s,) say in which shard and batch each was made.
    """

    codes: np.ndarray
    lengths: np.ndarray
    shards: list[str]
    batches: list[int | None]
    rejected: list[Rejected]


class CodeStream:
    """Hands out the records of some shards in order. One shard is in memory at a time."""

    def __init__(self, shards: Sequence[Path], folder: Path):
        self._shards = list(shards)
        self._folder = folder
        self._next_shard = 0
        self._position = 0
        self._name = ""
        self._records: list[CodeRecord] = []
        self._batches: list[int | None] = []
        self._reasons: list[str | None] = []

    def take(self, ids: Sequence[str]) -> TakenCodes:
        """The next `len(ids)` records, which must have these ids.

        Raises:
            DataError: the shards hold other records, or too few.
        """
        codes: list[np.ndarray] = [np.zeros(0, np.int64)]
        taken = TakenCodes(codes[0], np.zeros(len(ids), np.int64), [], [], [])
        for number, name in enumerate(ids):
            while self._position == len(self._records):
                self._open_next(name)
            record = self._records[self._position]
            if record.id != name:
                raise DataError(
                    f"{self._folder / self._name} holds {record.id!r} where the plan has "
                    f"{name!r}: the codes belong to another plan; generate them again"
                )
            if len(record.codes):
                codes.append(record.codes)
                taken.lengths[number] = len(record.codes)
            else:
                reason = self._reasons[self._position] or _UNKNOWN
                taken.rejected.append(Rejected(name, reason, record.text or ""))
            taken.shards.append(self._name)
            taken.batches.append(self._batches[self._position])
            self._position += 1
        return TakenCodes(
            np.concatenate(codes), taken.lengths, taken.shards, taken.batches, taken.rejected
        )

    def require_end(self) -> None:
        """Raises DataError if records are left over."""
        if self._position < len(self._records) or self._next_shard < len(self._shards):
            raise DataError(
                f"{self._folder} holds more codes than the plan asks for; they belong to another "
                "plan; generate them again"
            )

    def _open_next(self, wanted: str) -> None:
        if self._next_shard == len(self._shards):
            raise DataError(
                f"{self._folder} ends before span {wanted!r}: the codes belong to another plan; "
                "generate them again"
            )
        path = self._shards[self._next_shard]
        self._next_shard += 1
        self._position, self._name = 0, path.name
        _, self._records = read_code_shard(path)
        report = read_report(self._folder, path.name)
        none = [None] * len(self._records)
        self._batches, self._reasons = report if report else (none, list(none))
