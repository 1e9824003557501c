"""Texts in R's data packages, without R: a lazy-load database of character vectors.

`Rdata.rdx` (gzip) is a serialised list whose `variables` name a place and a length in `Rdata.rdb`;
there lie the big-endian length of the unpacked object and its zlib stream. Objects are in R's
binary serialisation (R Internals, 1.8), of which vectors, names and strings are understood here.
"""

import gzip
import struct
import zlib
from typing import Any

from megatron_speech.errors import DataError

_NIL, _REFERENCE = 254, 255
_SYMBOL, _PAIRS, _CHARS, _LOGICALS, _INTEGERS, _REALS, _STRINGS, _LIST = 1, 2, 9, 10, 13, 14, 16, 19
_HAS_ATTRIBUTES, _HAS_TAG = 0x200, 0x400
_LATIN1 = 0x4 << 12
_DAMAGE = (OSError, EOFError, zlib.error, struct.error, ValueError, LookupError, TypeError,
           AttributeError, RecursionError)  # fmt: skip
"""What damaged bytes lead to: numbers that are no places, names of what has none."""


class _Objects:
    """A reader of one serialised object. `names` are attributes of the vector read last."""

    def __init__(self, content: bytes):
        self._content, self._at = content, 0
        self._symbols: list[str] = []
        if self._take(2) != b"X\n":
            raise DataError("no R object in binary form")
        version = self._integer()
        self._take(8)  # the versions of R that wrote it and that can read it
        if version == 3:
            self._take(self._integer())  # the encoding of strings that name none
        elif version != 2:
            raise DataError(f"an R object of version {version}, expected 2 or 3")

    def _take(self, size: int) -> bytes:
        if not 0 <= size <= len(self._content) - self._at:
            raise DataError("an R object is cut short")
        self._at += size
        return self._content[self._at - size : self._at]

    def _integer(self) -> int:
        return struct.unpack(">i", self._take(4))[0]

    def read(self) -> Any:
        """Strings, numbers, lists; a list with names is a dict; None."""
        flags = self._integer()
        kind = flags & 0xFF
        if kind in (_CHARS, _SYMBOL, _REFERENCE, _NIL):
            return self._word(kind, flags)
        if kind == _PAIRS:
            return self._pairs(flags)
        value = self._vector(kind)
        attributes = self.read() if flags & _HAS_ATTRIBUTES else None
        names = (attributes or {}).get("names")
        if names is None or not isinstance(value, list):
            return value
        return dict(zip(names, value, strict=True))

    def _word(self, kind: int, flags: int) -> str | None:
        if kind == _NIL:
            return None
        if kind == _REFERENCE:
            return self._symbols[(flags >> 8) - 1]
        if kind == _SYMBOL:
            self._symbols.append(self.read())
            return self._symbols[-1]
        if (size := self._integer()) < 0:
            return None  # not available
        text = self._take(size)
        return text.decode("latin-1" if flags & _LATIN1 else "utf-8", "replace")

    def _pairs(self, flags: int) -> dict[str, Any]:
        found = {}
        while flags & 0xFF == _PAIRS:
            if flags & _HAS_ATTRIBUTES:
                self.read()
            tag = self.read() if flags & _HAS_TAG else ""
            found[tag] = self.read()
            flags = self._integer()
        return found

    def _vector(self, kind: int) -> Any:
        if kind not in (_LOGICALS, _INTEGERS, _REALS, _STRINGS, _LIST):
            raise DataError(f"an R object of type {kind}, which is not understood here")
        length = self._integer()
        if kind in (_STRINGS, _LIST):
            return [self.read() for _ in range(length)]
        form, size = ("d", 8) if kind == _REALS else ("i", 4)
        return list(struct.unpack(f">{length}{form}", self._take(size * length)))


def read_lazy_data(rdx: bytes, rdb: bytes) -> dict[str, list[str | None]]:
    """Character vectors of a data package, by name; what else it holds is left out.

    Raises:
        DataError: it is no such database, is damaged, or is packed otherwise than by zlib.
    """
    try:
        index = _Objects(gzip.decompress(rdx)).read()
        objects = {name: _unpacked(rdb, place) for name, place in index["variables"].items()}
        read = {name: _Objects(content).read() for name, content in objects.items()}
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"no lazy-load database of R: {error}") from None
    return {
        name: value for name, value in read.items()
        if isinstance(value, list) and value and all(isinstance(v, str | None) for v in value)
    }  # fmt: skip


def _unpacked(rdb: bytes, place: list[int]) -> bytes:
    start, length = place
    record = rdb[start : start + length]
    content = zlib.decompress(record[4:])
    if len(record) < length or len(content) != struct.unpack(">I", record[:4])[0]:
        raise EOFError("a record is cut short")
    return content
