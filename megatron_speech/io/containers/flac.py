"""FLAC (RFC 9639): what the last frame says of the length, beside what the first block says."""

from collections.abc import Iterator
from dataclasses import dataclass

from .streams import Container, Stream, View, with_changes

_MARKERS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
_TAILS = (1 << 16, 1 << 20)  # a frame takes less, and tags may follow it
_MOST_BLOCKS = 10_000
_RATES_HZ = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
_BITS = (0, 8, 12, -1, 16, 20, 24, 32)


def _crc_table(polynomial: int, bits: int) -> list[int]:
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) else 0)
        table.append(value & ((1 << bits) - 1))
    return table


_CRC8, _CRC16 = _crc_table(0x107, 8), _crc_table(0x18005, 16)


@dataclass(frozen=True)
class _Info:
    """The STREAMINFO block."""

    block_samples: int
    rate_hz: int
    bits: int
    samples: int
    """0 if unknown."""


def walk(view: View) -> Container:
    """The streams of a file; more than one where files were joined end to end."""
    starts = [0]
    while (found := _next_stream(view, starts[-1] + 8)) >= 0:
        starts.append(found)
    streams: list[Stream] = []
    for start, stop in zip(starts, [*starts[1:], view.size], strict=True):
        found = _stream(view, start, stop)
        if isinstance(found, str):
            return Container(problem=found)
        streams.append(found)
    return Container(tuple(streams))


def _next_stream(view: View, start: int) -> int:
    found = view.find(b"fLaC", start)
    while found >= 0 and view.at(found, 8) not in _MARKERS:
        found = view.find(b"fLaC", found + 4)
    return found


def _stream(view: View, start: int, stop: int) -> Stream | str:
    head = view.at(start, 26)
    if head[:8] not in _MARKERS or len(head) < 26:
        return Stream((range(start, stop),))  # for the decoder to say
    packed = int.from_bytes(head[18:26], "big")
    info = _Info(
        block_samples=int.from_bytes(head[10:12], "big"),
        rate_hz=packed >> 44,
        bits=(packed >> 36 & 31) + 1,
        samples=packed & 0xFFFFFFFFF,
    )
    rate = info.rate_hz or 1
    first = _first_frame(view, start)
    begins = _frame(view.at(first, 32), info)
    origin = 0 if begins is None else begins[0]
    ends = _ends_of_last_frames(view, first, stop, info, check=not info.samples)
    last = 0
    for end in ends:
        if not info.samples:
            bits = (packed | end - origin).to_bytes(8, "big")
            return Stream(with_changes(start, stop, {start + 18: bits}), end - origin)
        if end - origin == info.samples:
            return Stream((range(start, stop),))
        last = max(last, end - origin)
    if not info.samples:
        return "is cut short: it ends within a FLAC frame, and its header tells no length"
    if last > info.samples:
        return (
            f"holds {last / rate:.3f} s of sound, but its header announces "
            f"{info.samples / rate:.3f} s"
        )
    if last:
        return f"is cut short: {last / rate:.3f} s of {info.samples / rate:.3f} s were found"
    return Stream((range(start, stop),))


def _first_frame(view: View, start: int) -> int:
    """Behind the metadata blocks."""
    at = start + 4
    for _ in range(_MOST_BLOCKS):
        head = view.at(at, 4)
        at += 4 + int.from_bytes(head[1:4], "big")
        if not head or head[0] & 0x80:
            break
    return at


def _ends_of_last_frames(
    view: View, first: int, stop: int, info: _Info, check: bool
) -> Iterator[int]:
    """Sample at which frames end, the last one first; if `check`, of one that ends the file."""
    sync = view.at(first, 2)
    if sync not in (b"\xff\xf8", b"\xff\xf9"):
        return
    for reach in _TAILS:
        begin = max(first, stop - reach)
        tail = view.at(begin, max(stop - begin, 0))
        found, at = False, len(tail)
        while (at := tail.rfind(sync, 0, at)) >= 0:
            frame = _frame(tail[at : at + 32], info)
            if frame is not None and (not check or _crc(_CRC16, 16, tail[at:]) == 0):
                found = True
                yield sum(frame)
        if found or begin == first:
            return


def _frame(head: bytes, info: _Info) -> tuple[int, int] | None:
    """First sample and number of samples, by the header of a frame; None if it is no header."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8:
        return None
    size_code, rate_code, channels, bits = (
        head[2] >> 4,
        head[2] & 15,
        head[3] >> 4,
        head[3] >> 1 & 7,
    )
    if not size_code or rate_code == 15 or channels > 10 or head[3] & 1:
        return None
    if 0 < rate_code < 12 and _RATES_HZ[rate_code] != info.rate_hz:
        return None
    if bits and _BITS[bits] != info.bits:
        return None
    more = 0  # bytes of the number behind its first
    while head[4] >> (7 - more) & 1:
        more += 1
    more = max(more - 1, 0)
    number = head[4] & (0x7F if not more else (1 << (6 - more)) - 1 if more < 6 else 0)
    for byte in head[5 : 5 + more]:
        number = number << 6 | byte & 0x3F
    at = 5 + more
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    size = int.from_bytes(head[at : at + size_bytes], "big") + 1
    if size_code == 1:
        size = 192
    elif size_code <= 5:
        size = 576 << (size_code - 2)
    elif size_code >= 8:
        size = 256 << (size_code - 8)
    at += size_bytes + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if at >= len(head) or _crc(_CRC8, 8, head[: at + 1]) != 0:
        return None
    return (number if head[1] & 1 else number * info.block_samples), size


def _crc(table: list[int], bits: int, data: bytes) -> int:
    """0 for data that ends in its own checksum."""
    value, shift, mask = 0, bits - 8, (1 << bits) - 1
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> shift ^ byte]
    return value
