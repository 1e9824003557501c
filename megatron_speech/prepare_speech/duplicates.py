"""Sound that was there before: by its own shape, whatever it is called and however loud it is.

The signs of how energy changes over 33 bands of 300 to 2,000 Hz and from frame to frame make a
32-bit mark every 10 ms (Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System", 2002);
of these every eighth is kept, chosen by its own value, so that the same sound keeps the same marks
wherever a segment begins. Of two segments that share marks at one distance the later is a repeat.
"""

from collections.abc import Sequence

import numpy as np

_HOP, _WINDOW = 160, 6144
_BANDS, _LOWEST_HZ, _HIGHEST_HZ = 33, 300.0, 2000.0
_FRAMES_AT_ONCE = 512
_KEPT = 8
_COMMON = 64
"""A mark that so many segments have says nothing: tones, hums."""
_LEAST_MARKS = 4


def fingerprint(audio: np.ndarray, rate_hz: int = 16_000) -> tuple[np.ndarray, np.ndarray]:
    """Audio (n,) -> marks, uint32, and the frames of 10 ms at which they are."""
    padded = np.pad(audio, (_WINDOW // 2, _WINDOW // 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    window = np.hanning(_WINDOW).astype(np.float32)
    borders = np.geomspace(_LOWEST_HZ, _HIGHEST_HZ, _BANDS + 1) * _WINDOW / rate_hz
    bins = np.round(borders).astype(int)
    parts = []
    for first in range(0, len(windows), _FRAMES_AT_ONCE):
        spectrum = np.abs(np.fft.rfft(windows[first : first + _FRAMES_AT_ONCE] * window)) ** 2
        parts.append(np.add.reduceat(spectrum, bins, axis=1)[:, :_BANDS])
    energy = np.log(np.concatenate(parts) + 1e-9)
    rising = np.diff(np.diff(energy, axis=1), axis=0) > 0
    weights = (1 << np.arange(_BANDS - 1, dtype=np.uint64)).astype(np.uint64)
    marks = (rising.astype(np.uint64) @ weights).astype(np.uint32)
    chosen = np.flatnonzero(_mixed(marks) % _KEPT == 0)
    return marks[chosen], chosen.astype(np.uint16)


def _mixed(marks: np.ndarray) -> np.ndarray:
    """Hashes of marks: neighbours differ in few bits."""
    mixed = marks.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return mixed >> np.uint64(40)


def find_repeats(
    marks: Sequence[np.ndarray], frames: Sequence[np.ndarray], share: float
) -> dict[int, int]:
    """Of each segment that repeats an earlier one, which: at least `share` of its marks agree.

    A segment that repeats parts of several is a repeat of the one it shares most with, if all of
    them together have `share` of its marks.
    """
    sizes = np.array([len(each) for each in marks])
    if not sizes.sum():
        return {}
    flat, when = np.concatenate(marks), np.concatenate(frames).astype(np.int64)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((when, owner, flat))
    flat, when, owner = flat[order], when[order], owner[order]
    ends = np.append(np.flatnonzero(np.diff(flat)) + 1, len(flat))
    pairs = []
    first = 0
    for end in ends.tolist():
        if 2 <= end - first <= _COMMON:
            pairs.append(_pairs(owner[first:end], when[first:end]))
        first = end
    if not pairs:
        return {}
    later, earlier, shift, at = np.concatenate(pairs, axis=1)
    if not len(later):
        return {}
    return _repeats(later, earlier, shift, at, sizes, share)


def _pairs(owner: np.ndarray, when: np.ndarray) -> np.ndarray:
    """Occurrences of one mark, each with each before it in another segment, (4, pairs)."""
    one, other = np.triu_indices(len(owner), 1)
    differ = owner[one] != owner[other]
    one, other = one[differ], other[differ]
    return np.stack([owner[other], owner[one], when[other] - when[one], when[other]])


def _repeats(
    later: np.ndarray,
    earlier: np.ndarray,
    shift: np.ndarray,
    at: np.ndarray,
    sizes: np.ndarray,
    share: float,
) -> dict[int, int]:
    """Marks agree where several of two segments have the same distance, give or take a frame."""
    found: dict[int, int] = {}
    agreed: dict[int, dict[int, set[int]]] = {}
    order = np.lexsort((shift, earlier, later))
    later, earlier, shift, at = later[order], earlier[order], shift[order], at[order]
    borders = np.flatnonzero(np.diff(later) | np.diff(earlier)) + 1
    for group in np.split(np.arange(len(later)), borders):
        values = shift[group]
        counts = np.searchsorted(values, values + 1, "right") - np.searchsorted(values, values - 1)
        best = int(counts.argmax())
        if counts[best] >= _LEAST_MARKS:
            near = group[np.abs(values - values[best]) <= 1]
            places = agreed.setdefault(int(later[group[0]]), {})
            places[int(earlier[group[0]])] = set(at[near].tolist())
    for segment, places in sorted(agreed.items()):
        if len(set().union(*places.values())) >= share * sizes[segment]:
            found[segment] = max(places, key=lambda other: (len(places[other]), -other))
    return found
