"""WAV, RF64, Wave64, AIFF, CAF, AU, SPHERE: a header says how many bytes of sound follow."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .streams import Container, Stream, View, whole, with_changes

_MOST_JUNK_S, _MOST_JUNK_BYTES = 0.5, 1 << 16
_MOST_CHUNKS = 10_000
_AU_SAMPLE_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}
# What a program writes that streams and does not know the size lies near 2 or 4 GiB.
_UNKNOWN = (range(0x7FFF_0000, 0x8001_0000), range(0xFFFF_0000, 1 << 32))
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


@dataclass(frozen=True)
class _Layout:
    """How chunks are written."""

    first: int
    """Where the first chunk begins."""
    order: str
    name: str
    size: str
    """Byte order, name and size of a chunk, as `struct` has them."""
    data: bytes = b"data"
    """Name of the chunk of sound."""
    counted: int = 0
    """Bytes of the header that the size counts."""
    align: int = 2


_LAYOUTS = {
    b"RIFF": _Layout(12, "<", "4s", "I"),
    b"RF64": _Layout(12, "<", "4s", "I"),
    b"BW64": _Layout(12, "<", "4s", "I"),
    b"RIFX": _Layout(12, ">", "4s", "I"),
    b"FORM": _Layout(12, ">", "4s", "I", b"SSND"),
    b"riff": _Layout(40, "<", "16s", "Q", _W64_DATA, 24, 8),
    b"caff": _Layout(8, ">", "4s", "q", align=1),
}
MAGICS = (*_LAYOUTS, b".snd", b"NIST")


@dataclass(frozen=True)
class _Sound:
    """Where the sound of a stream lies."""

    start: int
    size: int | None
    """Bytes as the header says; None if it was written before that was known."""
    size_at: int
    size_form: str
    """Where and how the header says it."""
    bytes_per_second: float
    """0 if unknown."""
    layout: _Layout | None = None

    def amount(self, size: int) -> str:
        """So many bytes, in seconds."""
        rate = self.bytes_per_second
        return f"{size / rate:.3f} s" if rate else f"{size:,} bytes"


def walk(view: View) -> Container:
    """The streams of a file; more than one where files were joined end to end."""
    streams: list[Stream] = []
    start = 0
    while start < view.size:
        read = {b".snd": _au, b"NIST": _sphere}.get(view.at(start, 4), _chunked)
        sound = read(view, start)
        if sound is None:
            return whole(view.size)  # for the decoder to say
        found = _stream(view, start, sound)
        if isinstance(found, str):
            return Container(problem=found)
        stream, after = found
        if after <= start:  # a header that lies within itself would be found for ever
            return whole(view.size)
        streams.append(stream)
        start = after
    return Container(tuple(streams))


def _stream(view: View, start: int, sound: _Sound) -> tuple[Stream, int] | str:
    """The stream that begins at `start` and where the next one would; or what is wrong with it."""
    available = view.size - sound.start
    if sound.size is None:
        again = view.find(view.at(start, 12), sound.start)
        stop = again if again >= 0 else view.size
        size = min(stop - sound.start, 0xFFFF_FFFF) + (sound.layout.counted if sound.layout else 0)
        changes = {sound.size_at: struct.pack(sound.size_form, size)}
        return Stream(with_changes(start, stop, changes)), stop
    said = sound.amount(sound.size)
    if sound.size > available:
        return f"is cut short: {sound.amount(available)} of {said} were found"
    end = sound.start + sound.size
    rest = end if sound.layout is None else _behind_chunks(view, sound.layout, start, end)
    if view.at(rest, 4) in MAGICS:
        return Stream((range(start, end),)), rest
    junk = view.size - rest
    if junk > (_MOST_JUNK_S * sound.bytes_per_second or _MOST_JUNK_BYTES):
        return f"holds {said} by its header, but {sound.amount(junk)} follow that may be sound"
    # libsndfile takes what follows in a Wave64 file for sound
    stop = end if sound.layout is _LAYOUTS[b"riff"] else view.size
    return Stream((range(start, stop),)), view.size


def _au(view: View, start: int) -> _Sound | None:
    head = view.at(start, 24)
    if len(head) < 24:
        return None
    offset, size, encoding, rate_hz, channels = struct.unpack(">5I", head[4:])
    unknown = size == 0xFFFF_FFFF or (not size and start + offset < view.size)
    rate = float(_AU_SAMPLE_BYTES.get(encoding, 0) * rate_hz * channels)
    return _Sound(start + offset, None if unknown else size, start + 8, ">I", rate)


def _sphere(view: View, start: int) -> _Sound | None:
    head = view.at(start, 1024)
    found = dict(re.findall(rb"(\w+) -i (\d{1,15})\n", head))
    names = (b"sample_count", b"channel_count", b"sample_n_bytes", b"sample_rate")
    if not found.keys() >= set(names) or b"embedded" in head or not head[8:15].strip().isdigit():
        return None
    count, channels, each, rate_hz = (int(found[name]) for name in names)
    body, frame = start + int(head[8:15]), channels * each
    return _Sound(body, count * frame, start, "", float(frame * rate_hz))


def _chunked(view: View, start: int) -> _Sound | None:
    magic = view.at(start, 4)
    layout = _LAYOUTS.get(magic)
    if layout is None:
        return None
    rate, long_size = 0.0, None
    for name, body, size in _chunks(view, layout, start, start + layout.first):
        if name[:4] in (b"fmt ", b"COMM", b"desc"):
            rate = _bytes_per_second(name[:4], view.at(body, 32), layout)
        elif name == b"ds64" and magic != b"RIFF":
            long_size = int.from_bytes(view.at(body + 8, 8), "little")
        elif name == layout.data:
            if size == 0xFFFF_FFFF and long_size:
                size, known = long_size, True
            else:
                known = _is_known(view, layout, start, body, size)
            form = layout.order + layout.size
            size_at = body - struct.calcsize(form)
            return _Sound(body, size if known else None, size_at, form, rate, layout)
    return None


def _is_known(view: View, layout: _Layout, start: int, body: int, size: int) -> bool:
    """Whether a size of sound is meant, not what stands there until it is known."""
    available = view.size - body
    if size == 0:
        return not available or _behind_chunks(view, layout, start, body) == view.size
    if size < 0 or size >= 1 << 62:
        return False
    return size <= available or layout.size != "I" or not any(size in span for span in _UNKNOWN)


def _chunks(view: View, layout: _Layout, start: int, at: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, place and size of chunks from `at` on, of a stream that begins at `start`."""
    header = struct.Struct(layout.order + layout.name + layout.size)
    for _ in range(_MOST_CHUNKS):
        if len(found := view.at(at, header.size)) < header.size:
            return
        name, size = header.unpack(found)
        size -= layout.counted
        yield name, at + header.size, size
        at += header.size + max(size, 0)
        at += (start - at) % layout.align


def _behind_chunks(view: View, layout: _Layout, start: int, end: int) -> int:
    """Where the chunks behind the sound end: odd sizes should be padded, and are not always."""
    padded = end + (start - end) % layout.align
    behind = [_last_chunk(view, layout, start, at) for at in {padded, end}]
    return max(behind)


def _last_chunk(view: View, layout: _Layout, start: int, at: int) -> int:
    end = at
    for name, body, size in _chunks(view, layout, start, at):
        is_name = name[:4].isascii() and name[:4].decode().isprintable()
        if not is_name or name[:4] in MAGICS or not 0 <= size <= view.size - body:
            break
        end = min(body + size + (start - body - size) % layout.align, view.size)
    return end


def _bytes_per_second(name: bytes, body: bytes, layout: _Layout) -> float:
    """By the chunk that describes the sound; 0 if it does not say."""
    if name == b"fmt " and len(body) >= 12:
        return float(struct.unpack_from(f"{layout.order}I", body, 8)[0])
    if name == b"COMM" and len(body) >= 18:
        channels, bits = struct.unpack_from(">H", body)[0], struct.unpack_from(">H", body, 6)[0]
        exponent, mantissa = struct.unpack_from(">HQ", body, 8)
        if exponent < 16384 + 32:
            return channels * -(-bits // 8) * mantissa * 2.0 ** (exponent - 16383 - 63)
    if name == b"desc" and len(body) >= 24:
        rate_hz, packet_bytes, packet_frames = struct.unpack_from(">d8xII", body)
        if packet_frames and 0 < rate_hz < 1e9:
            return rate_hz * packet_bytes / packet_frames
    return 0.0
