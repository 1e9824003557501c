"""Stretches of speech, of a length to train on, cut in pauses."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .voice_activity import FRAME_S

SHORTEST_S, LONGEST_S = 1.0, 30.0
_BEGINS, _ENDS = 0.5, 0.35
"""Probability above which speech begins, and below which it has ended."""
_SHORTEST_RUN_S = 0.2
_SHORTEST_GAP_S = 0.1
_PAUSE_S = 0.7
"""A longer pause ends a segment."""
_LONGEST_INSIDE_S = 2.0
"""Pause within a segment that would be too short otherwise."""
_AROUND_S = 0.15
"""Kept before and behind speech, where others leave the room."""
_EARLIEST = 0.5
"""Share of the longest segment before which it is not cut."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording, in seconds."""

    start_s: float
    stop_s: float
    speech_share: float
    """Of its frames, those in which somebody speaks."""

    @property
    def length_s(self) -> float:
        return self.stop_s - self.start_s


def speech_runs(probabilities: np.ndarray) -> np.ndarray:
    """Runs of speech as first and last-but-one frame, (n, 2)."""
    speaking = np.zeros(len(probabilities), bool)
    now = False
    for frame, probability in enumerate(probabilities.tolist()):
        now = probability >= (_ENDS if now else _BEGINS)
        speaking[frame] = now
    edges = np.flatnonzero(np.diff(np.concatenate([[0], speaking.astype(np.int8), [0]])))
    runs = edges.reshape(-1, 2)
    if len(runs):
        close = runs[1:, 0] - runs[:-1, 1] < _SHORTEST_GAP_S / FRAME_S
        starts, stops = runs[np.append(True, ~close), 0], runs[np.append(~close, True), 1]
        runs = np.stack([starts, stops], axis=1)
    return runs[runs[:, 1] - runs[:, 0] >= _SHORTEST_RUN_S / FRAME_S]


def find_segments(probabilities: np.ndarray, length_s: float) -> list[Segment]:
    """Segments of a recording of `length_s` by the probabilities of speech of its frames.

    A segment is a stretch of speech without longer pauses. One that is too long is cut in the
    longest pause of the later part of what fits, or without a pause where speech is least likely;
    what is too short joins a neighbour that is near, and stays too short if there is none.
    """
    runs = speech_runs(probabilities)
    blocks: list[tuple[int, int]] = []
    for part in _without_pauses(runs):
        blocks += _cut(part, probabilities)
    blocks = _joined(blocks)
    return list(_padded(blocks, probabilities, length_s))


def _without_pauses(runs: np.ndarray) -> Iterator[np.ndarray]:
    if not len(runs):
        return
    pauses = (runs[1:, 0] - runs[:-1, 1]) * FRAME_S
    yield from np.split(runs, np.flatnonzero(pauses > _PAUSE_S) + 1)


def _cut(runs: np.ndarray, probabilities: np.ndarray) -> Iterator[tuple[int, int]]:
    most = int((LONGEST_S - 2 * _AROUND_S) / FRAME_S)
    while runs[-1, 1] - runs[0, 0] > most:
        start = int(runs[0, 0])
        earliest, latest = start + int(_EARLIEST * most), start + most
        within = (runs[1:, 0] >= earliest) & (runs[:-1, 1] <= latest)
        if within.any():
            at = int(np.where(within, runs[1:, 0] - runs[:-1, 1], -1).argmax())
            yield start, int(runs[at, 1])
            runs = runs[at + 1 :]
            continue
        frame = earliest + int(probabilities[earliest:latest].argmin())
        yield start, frame
        left = runs[runs[:, 1] > frame].copy()
        left[0, 0] = max(left[0, 0], frame)
        runs = left
    yield int(runs[0, 0]), int(runs[-1, 1])


def _joined(blocks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """With blocks that are too short made part of a neighbour."""
    shortest, most = SHORTEST_S / FRAME_S, (LONGEST_S - 2 * _AROUND_S) / FRAME_S
    found: list[tuple[int, int]] = []
    for start, stop in blocks:
        if found:
            before = found[-1]
            short = min(stop - start, before[1] - before[0]) < shortest
            near = start - before[1] <= _LONGEST_INSIDE_S / FRAME_S
            if short and near and stop - before[0] <= most:
                found[-1] = (before[0], stop)
                continue
        found.append((start, stop))
    return found


def _padded(
    blocks: Sequence[tuple[int, int]], probabilities: np.ndarray, length_s: float
) -> Iterator[Segment]:
    for number, (start, stop) in enumerate(blocks):
        before = blocks[number - 1][1] * FRAME_S if number else 0.0
        after = blocks[number + 1][0] * FRAME_S if number + 1 < len(blocks) else length_s
        first, last = start * FRAME_S, min(stop * FRAME_S, length_s)
        yield Segment(
            round(max(first - _AROUND_S, (before + first) / 2 if number else before), 3),
            round(min(last + _AROUND_S, (last + after) / 2 if after < length_s else after), 3),
            float((probabilities[start:stop] > _ENDS).mean()),
        )


def slices(
    blocks: Iterable[np.ndarray], segments: Sequence[Segment], rate_hz: int
) -> Iterator[tuple[Segment, np.ndarray]]:
    """Audio of segments in their order, from blocks (n,) of the whole; no more is held than one."""
    held, first = np.zeros(0, np.float32), 0
    source = iter(blocks)
    for segment in segments:
        start, stop = round(segment.start_s * rate_hz), round(segment.stop_s * rate_hz)
        parts = [held]
        end = first + len(held)
        while end < stop and (block := next(source, None)) is not None:
            if end + len(block) <= start:
                parts, first = [], end + len(block)
            else:
                parts.append(block)
            end += len(block)
        held = np.concatenate([np.zeros(0, np.float32), *parts])
        held, first = held[max(start - first, 0) :], max(start, first)
        yield segment, held[: stop - first]
