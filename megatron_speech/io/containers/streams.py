"""Which bytes of a file are one stream of sound each, and a file made of such bytes."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, BinaryIO

_WINDOW_BYTES = 1 << 18
_HEAD_BYTES = 1 << 14  # enough where only headers are looked at

Piece = bytes | range


@dataclass(frozen=True)
class Stream:
    """One stream that a decoder takes for a whole file."""

    pieces: tuple[Piece, ...]
    """Stretches of the file, and bytes that stand for what its header leaves open."""
    frames: int | None = None
    """Samples per channel, where the container says it better than the decoder guesses it."""


@dataclass(frozen=True)
class Container:
    """What a walk through a file found: streams to be decoded in turn, or why it is not whole."""

    streams: tuple[Stream, ...] = ()
    problem: str = ""
    """Goes on behind the name of a recording: `is cut short: ...`."""


class View:
    """Bytes of a file by position, read in windows."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size
        self._start, self._window = 0, b""

    def at(self, position: int, count: int) -> bytes:
        """Bytes position .. position + count, fewer at the end of the file."""
        start = position - self._start
        if start < 0 or start + count > len(self._window):
            self._start, self._window, start = position, self._read(position, count), 0
        return self._window[start : start + count]

    def find(self, pattern: bytes, start: int) -> int:
        """Where `pattern` next begins at or behind `start`, -1 for nowhere."""
        while start < self.size:
            window = self._read(start, _WINDOW_BYTES)
            found = window.find(pattern)
            if found >= 0:
                return start + found
            start += max(len(window) - len(pattern) + 1, 1)
        return -1

    def _read(self, position: int, count: int) -> bytes:
        if position >= self.size:
            return b""
        self.file.seek(position)
        return self.file.read(max(count, _WINDOW_BYTES if position else _HEAD_BYTES))


def whole(size: int) -> Container:
    """The file as it is."""
    return Container((Stream((range(size),)),))


def with_changes(start: int, stop: int, changes: dict[int, bytes]) -> tuple[Piece, ...]:
    """Bytes start .. stop of a file, other bytes at some positions."""
    pieces: list[Piece] = []
    for position, value in sorted(changes.items()):
        pieces += [range(start, position), value]
        start = position + len(value)
    return (*pieces, range(start, stop))


class Pieces(io.RawIOBase):
    """Stretches of a file, and other bytes, one after the other as a file."""

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece]):
        self._file, self._pieces, self._at = file, pieces, 0
        self._starts = [0, *accumulate(map(len, pieces))]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        self._at = max(origin + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._starts[-1]:
            return 0
        number = bisect_right(self._starts, self._at) - 1
        piece = self._pieces[number][self._at - self._starts[number] :][: len(buffer)]
        if isinstance(piece, range):
            self._file.seek(piece.start)
            piece = self._file.read(len(piece))
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
