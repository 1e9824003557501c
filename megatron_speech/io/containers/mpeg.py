"""MPEG audio (MP3): frames counted one by one, as most files do not say how many they hold."""

from dataclasses import dataclass
from functools import cache

from .streams import Container, Stream, View, whole, with_changes

_KBPS = {  # by MPEG-1 or later, and layer
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_OPENING_BYTES, _SEEN_AT_ONCE, _EMPTY = 48, 1 << 16, bytes(7)
_MOST_FRAMES = 1 << 62
_FIRST_FRAME_WITHIN = 1 << 16
_SAME_STREAM = 0xFFFE0C00  # version, layer and rate; channels may be joint in some frames only
_MADE_BITRATE = 9  # of the frame that announces a length: holds more than what is put into it


@dataclass(frozen=True)
class _Frame:
    size: int
    samples: int
    rate_hz: int


@dataclass
class _Segment:
    """Frames that belong together: behind an announcement, or behind what was announced before."""

    start: int
    head: int
    """Header of the first frame."""
    announced: int | None = None
    """Frames as the first one says, which is none of them."""
    frames: int = 0


@cache
def _frame(head: int) -> _Frame | None:
    """What the 23 upper bits of a header say; None if it is none, or its size is left open."""
    version, layer = head >> 10 & 3, 4 - (head >> 8 & 3)
    bitrate, rate = head >> 3 & 15, head >> 1 & 3
    if head >> 12 != 0x7FF or version == 1 or layer == 4 or not 0 < bitrate < 15 or rate == 3:
        return None
    first = version == 3
    kbps = _KBPS[(1, layer) if first else (2, min(layer, 2))][bitrate - 1]
    rate_hz, padding = _RATES_HZ[version][rate], head & 1
    if layer == 1:
        return _Frame((12_000 * kbps // rate_hz + padding) * 4, 384, rate_hz)
    samples = 576 if layer == 3 and not first else 1152
    return _Frame(samples * 125 * kbps // rate_hz + padding, samples, rate_hz)


def is_mpeg(view: View) -> bool:
    """Whether a file begins with a frame or with a tag as MP3 files have them."""
    return view.at(0, 3) == b"ID3" or _head_and_frame(view, 0)[1] is not None


def walk(view: View) -> Container:
    """Segments of whole frames, each with its true length in front of it."""
    at = _next_frame(view, _behind_tags(view, 0))
    if at < 0:
        return whole(view.size)  # free format, or no MPEG audio: for the decoder to say
    kind = _head_and_frame(view, at)[0] & _SAME_STREAM
    segments: list[_Segment] = []
    while at < view.size:
        head, frame = _head_and_frame(view, at)
        if frame is not None and head & _SAME_STREAM == kind:
            if at + frame.size > view.size:
                return _container(view, segments, at, torn=True)
            announced = _announcement(view, at, head)
            if announced is not None:
                start = at if announced else at + frame.size
                segments.append(_Segment(start, head, announced or None))
                at += frame.size
                continue
            if not segments or segments[-1].frames == segments[-1].announced:
                segments.append(_Segment(at, head))
            count, at = _count_frames(view, at, frame.size, kind, _room(segments[-1]))
            segments[-1].frames += count
            continue
        behind = _behind_tags(view, at)
        following = _next_frame(view, behind) if behind < view.size else -1
        if following < 0:
            break
        if behind == at or _head_and_frame(view, following)[0] & _SAME_STREAM != kind:
            problem = f"is damaged: from byte {at:,} on come no MPEG frames of the kind before"
            return Container(problem=problem)
        at = following
    return _container(view, segments, at, torn=False)


def _room(segment: _Segment) -> int:
    """How many frames it may still take."""
    return _MOST_FRAMES if segment.announced is None else segment.announced - segment.frames


def _count_frames(view: View, at: int, size: int, kind: int, most: int) -> tuple[int, int]:
    """Frames of sound from the one of `size` bytes at `at` on, as far as a window shows them."""
    window, count, place = view.at(at, _SEEN_AT_ONCE), 1, size
    last = len(window) - _OPENING_BYTES
    while count < most and place < last:
        head = int.from_bytes(window[place : place + 4], "big")
        frame = _frame(head >> 9)
        if frame is None or head & _SAME_STREAM != kind or place + frame.size > len(window):
            break
        empty = window[place + 6 : place + 13] == _EMPTY  # an announcement has no side information
        if empty and _announcement(view, at + place, head) is not None:
            break
        count, place = count + 1, place + frame.size
    return count, at + place


def _head_and_frame(view: View, at: int) -> tuple[int, _Frame | None]:
    head = int.from_bytes(view.at(at, 4), "big")
    return head, _frame(head >> 9)


def _announcement(view: View, at: int, head: int) -> int | None:
    """How many frames the one at `at` says will follow, 0 if it leaves it open; None for sound."""
    place = at + _place_of_announcement(head)
    if view.at(place, 4) in (b"Xing", b"Info"):
        flags, frames = view.at(place + 7, 1), view.at(place + 8, 4)
        return int.from_bytes(frames, "big") if flags and flags[0] & 1 else 0
    return 0 if view.at(at + 36, 4) == b"VBRI" else None


def _place_of_announcement(head: int) -> int:
    """Behind the header, its checksum and the side information of a Layer III frame."""
    first, mono, checksum = head >> 19 & 3 == 3, head >> 6 & 3 == 3, not head >> 16 & 1
    return 4 + 2 * checksum + ((17 if mono else 32) if first else (9 if mono else 17))


def _container(view: View, segments: list[_Segment], end: int, torn: bool) -> Container:
    """Streams of all segments; the last frame is `torn` where the file ends within it."""
    segments = _merged(segments)
    sizes = [_frame(segment.head >> 9) for segment in segments]
    seconds = [0.0 if size is None else size.samples / size.rate_hz for size in sizes]
    missing = [0 if s.announced is None else max(s.announced - s.frames, 0) for s in segments]
    unannounced = torn and not (segments and segments[-1].announced and not missing[-1])
    if unannounced or max(missing, default=0) > 1:
        found = sum(s.frames * each for s, each in zip(segments, seconds, strict=True))
        more = sum(n * each for n, each in zip(missing, seconds, strict=True))
        if not more:
            return Container(
                problem=f"is cut short: its last MPEG frame, at {found:.3f} s, is torn"
            )
        return Container(problem=f"is cut short: {found:.3f} s of {found + more:.3f} s were found")
    starts = [*(segment.start for segment in segments), end]
    if len(segments) == 1 and segments[0].announced == segments[0].frames:
        return whole(view.size)
    return Container(
        tuple(_stream(s, starts[n], starts[n + 1]) for n, s in enumerate(segments) if s.frames)
    )


def _merged(segments: list[_Segment]) -> list[_Segment]:
    """A single frame too many is no segment: some writers count the announcing one, some do not."""
    merged: list[_Segment] = []
    for segment in segments:
        if merged and merged[-1].announced and segment.announced is None and segment.frames == 1:
            merged[-1].frames += 1
        else:
            merged.append(segment)
    return merged


def _stream(segment: _Segment, start: int, stop: int) -> Stream:
    """A segment that says how long it is: libsndfile guesses by the first frame's bitrate."""
    count = segment.frames.to_bytes(4, "big")
    if segment.announced is not None:
        place = start + _place_of_announcement(segment.head) + 8
        return Stream(with_changes(start, stop, {place: count}))
    size = _frame(segment.head >> 9)
    assert size is not None
    if segment.head >> 17 & 3 != 1:  # Layer I and II cannot announce it
        return Stream((range(start, stop),), segment.frames * size.samples)
    head = segment.head & 0xFFFF0DFF | 0x00010000 | _MADE_BITRATE << 12
    made = _frame(head >> 9)
    assert made is not None
    opening = head.to_bytes(4, "big").ljust(_place_of_announcement(head), b"\x00")
    opening += b"Xing" + (1).to_bytes(4, "big") + count
    return Stream((opening.ljust(made.size, b"\x00"), range(start, stop)))


def _behind_tags(view: View, at: int) -> int:
    """Where tags (ID3, APE, Lyrics3) and zeros that stand here end."""
    while True:
        head = view.at(at, 32)
        if head[:3] == b"ID3" and len(head) > 10:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            behind = at + 10 + size + (10 if head[5] & 0x10 else 0)
        elif head[:3] == b"TAG":
            behind = at + 128
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            begins = head[23] & 0x20
            behind = at + 32 + (int.from_bytes(head[12:16], "little") if begins else 0)
        elif head[:11] == b"LYRICSBEGIN":
            ends = [view.find(mark, at) for mark in (b"LYRICS200", b"LYRICSEND")]
            behind = min((end for end in ends if end >= 0), default=view.size) + 9
        elif head[:1] == b"\x00":
            zeros = view.at(at, 1 << 12)
            behind = at + len(zeros) - len(zeros.lstrip(b"\x00"))
        else:
            return min(at, view.size)
        at = behind


def _next_frame(view: View, start: int) -> int:
    """Where the next frame is that another one follows, or the end of the file; -1 for nowhere."""
    data = view.at(start, _FIRST_FRAME_WITHIN)
    at = data.find(b"\xff")
    while at >= 0:
        head, frame = _head_and_frame(view, start + at)
        if frame is not None:
            behind = start + at + frame.size
            again, following = _head_and_frame(view, behind)
            same = following is not None and (head ^ again) & _SAME_STREAM == 0
            if same or behind == view.size:
                return start + at
        at = data.find(b"\xff", at + 1)
    return -1
