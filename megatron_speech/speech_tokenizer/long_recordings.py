"""Recordings longer than Whisper's window, cut between words whose times are known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..audio import WHOLE, Excerpt, stream_audio
from ..data.manifest import ManifestRow
from ..data.reading import stream_recording
from ..data.recordings import RecordingRow
from ..text.words import word_bounds

_ROUNDING_S = 0.02  # of aligners
_EARLIEST = 0.5  # share of the window before which no piece ends: short pieces teach less


@dataclass(frozen=True, kw_only=True)
class Piece(ManifestRow):
    """Some words of a longer recording; `duration_s` is their length."""

    start_s: float
    """Where it begins in the recording."""


def stream_row(row: ManifestRow) -> Iterator[np.ndarray]:
    """Blocks (n,) of the part of its recording that a row means.

    Raises:
        AudioError: as `stream_audio`, possibly after some blocks.
    """
    if isinstance(row, RecordingRow):
        yield from stream_recording(row.recording)
        return
    excerpt = WHOLE
    if isinstance(row, Piece):
        excerpt = Excerpt(start_s=row.start_s, duration_s=row.duration_s)
    yield from stream_audio(row.path, f"recording {row.path}", excerpt)


def cut_long(row: ManifestRow, times: np.ndarray | None, window_s: float) -> Sequence[ManifestRow]:
    """A recording that is longer than `window_s`, as pieces `<id>:<first word>`; else itself.

    `times` (w, 2) are start and stop of each word in seconds. A piece ends in the middle of the
    longest pause in the later half of its window. Where times are missing, do not fit the text or
    leave no place to cut, the recording stays whole.
    """
    text = " ".join(row.text.split())
    words = word_bounds(text)
    if isinstance(row, RecordingRow):  # a part already, or in no file of its own
        return [row]
    if times is None or not len(words) or len(times) != len(words):
        return [row]
    end_s = row.duration_s or float(times[-1, 1])
    ordered = np.isfinite(times).all() and (np.diff(times.ravel()) >= -_ROUNDING_S).all()
    if end_s <= window_s or not ordered or times[0, 0] < 0 or times[-1, 1] > end_s:
        return [row]
    middles = (times[:-1, 1] + times[1:, 0]) / 2
    cuts = list(_cuts(middles, times[1:, 0] - times[:-1, 1], end_s, window_s))
    if not cuts:
        return [row]
    starts_s = [0.0, *(float(middles[cut - 1]) for cut in cuts)]
    firsts, lasts = [0, *cuts], [*cuts, len(words)]
    bounds = zip(firsts, lasts, starts_s, [*starts_s[1:], end_s], strict=True)
    return [
        Piece(
            id=f"{row.id}:{first}",
            path=row.path,
            text=text[words[first, 0] : words[last - 1, 1]],
            speaker=row.speaker,
            language=row.language,
            duration_s=stop_s - start_s,
            start_s=start_s,
        )
        for first, last, start_s, stop_s in bounds
    ]


def _cuts(middles: np.ndarray, pauses: np.ndarray, end_s: float, window_s: float) -> Iterator[int]:
    """Numbers of the words that begin a new piece; none if some window has no place to cut."""
    found: list[int] = []
    start_s = 0.0
    while end_s - start_s > window_s:
        within = (middles > start_s + _EARLIEST * window_s) & (middles <= start_s + window_s)
        if not within.any():
            return
        found.append(int(np.where(within, pauses, -np.inf).argmax()) + 1)
        start_s = float(middles[found[-1] - 1])
    yield from found
