"""Ogg (RFC 3533): pages that say where a stream begins and ends."""

from .streams import Container, Stream, View

_HEADER_BYTES = 27
_BEGINS, _ENDS = 2, 4


def walk(view: View) -> Container:
    """The links of a chain; the last page of every stream in it has to end it."""
    at, start = 0, 0
    links: list[Stream] = []
    numbers: dict[bytes, int] = {}  # of the next page, by stream that has not ended
    beginning = True  # pages that begin streams stand together
    rate_hz, samples = 0, 0
    while (head := view.at(at, _HEADER_BYTES + 255))[:4] == b"OggS":
        if len(head) < _HEADER_BYTES:
            break
        flags, serial, number = head[5], head[14:18], int.from_bytes(head[18:22], "little")
        end = at + _HEADER_BYTES + head[26] + sum(head[27 : 27 + head[26]])
        if end > view.size:
            break
        if flags & _BEGINS:
            if not beginning:
                if numbers:
                    return _unended(rate_hz, samples)
                links.append(Stream((range(start, at),)))
                start, beginning, samples = at, True, 0
            numbers[serial] = number
            rate_hz = _rate_hz(head[27 + head[26] :]) or rate_hz
        else:
            beginning = False
        if numbers.get(serial, number) != number:
            return Container(problem=f"is damaged: Ogg pages are missing before byte {at:,}")
        if flags & _ENDS:
            numbers.pop(serial, None)
        elif serial in numbers:
            numbers[serial] = (number + 1) & 0xFFFFFFFF
        samples = max(samples, int.from_bytes(head[6:14], "little", signed=True))
        at = end
    if numbers or (at < view.size and head[:4] == b"OggS"):
        return _unended(rate_hz, samples)
    if view.find(b"OggS", at) >= 0:
        return Container(
            problem=f"is damaged or cut short: byte {at:,} is not where Ogg pages join"
        )
    return Container((*links, Stream((range(start, at),))))


def _rate_hz(packet: bytes) -> int:
    """Of positions in the stream that a first packet opens; 0 if unknown."""
    if packet.startswith(b"OpusHead"):
        return 48_000
    return int.from_bytes(packet[12:16], "little") if packet.startswith(b"\x01vorbis") else 0


def _unended(rate_hz: int, samples: int) -> Container:
    found = f", at {samples / rate_hz:.3f} s" if rate_hz else ""
    return Container(problem=f"is cut short: its last Ogg page{found}, does not end the stream")
