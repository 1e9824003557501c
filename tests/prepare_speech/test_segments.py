"""Where segments begin and end, and what of the sound they hold."""

from itertools import pairwise

import numpy as np
import pytest

from megatron_speech.prepare_speech.segments import LONGEST_S, Segment, find_segments, slices
from megatron_speech.prepare_speech.voice_activity import FRAME_S


def spoken(*parts: tuple[float, float]) -> np.ndarray:
    """Probabilities of stretches: seconds, and how likely speech is in them."""
    return np.concatenate([np.full(round(s / FRAME_S), p, np.float32) for s, p in parts])


def found(*parts: tuple[float, float]) -> list[Segment]:
    probabilities = spoken(*parts)
    return find_segments(probabilities, len(probabilities) * FRAME_S)


def test_segments_end_in_pauses():
    one, two = found((2, 0), (5, 0.9), (0.3, 0.1), (4, 0.9), (3, 0), (6, 0.8), (1, 0))
    assert one.start_s == pytest.approx(1.85, abs=0.04)
    assert one.stop_s == pytest.approx(11.45, abs=0.06)
    assert two.length_s == pytest.approx(6.3, abs=0.06)
    assert two.speech_share == 1.0
    assert not found((10, 0.2))
    assert not find_segments(np.zeros(0, np.float32), 0.0)


def test_long_speech_is_cut_in_its_longest_pause():
    parts = found((20, 0.9), (0.5, 0.1), (5, 0.9), (0.2, 0.1), (20, 0.9))
    assert [round(part.length_s) for part in parts] == [20, 25]
    assert parts[0].stop_s <= parts[1].start_s


@pytest.mark.parametrize("seed", range(5))
def test_no_segment_is_too_long_and_nothing_is_lost(seed):
    random = np.random.default_rng(seed)
    probabilities = np.repeat(random.uniform(0.2, 1.0, 300), random.integers(1, 60, 300))
    parts = find_segments(probabilities.astype(np.float32), len(probabilities) * FRAME_S)
    assert max(part.length_s for part in parts) <= LONGEST_S + 1e-6
    assert all(a.stop_s <= b.start_s + 1e-9 for a, b in pairwise(parts))
    times = (np.arange(len(probabilities)) + 0.5) * FRAME_S
    inside = np.zeros(len(times), bool)
    for part in parts:
        inside |= (times > part.start_s) & (times < part.stop_s)
    assert inside[probabilities > 0.5].mean() > 0.99


def test_unbroken_speech_is_cut_where_it_is_least_likely():
    probabilities = spoken((70, 0.9))
    probabilities[round(25 / FRAME_S)] = 0.6
    first, *_ = find_segments(probabilities, 70.0)
    assert first.stop_s == pytest.approx(25, abs=0.2)


def test_short_words_join_a_near_neighbour():
    (joined,) = found((1, 0), (0.5, 0.9), (1.2, 0), (3, 0.9), (1, 0))
    assert joined.length_s == pytest.approx(5.0, abs=0.1)
    alone, _ = found((1, 0), (0.5, 0.9), (5, 0), (3, 0.9), (1, 0))
    assert alone.length_s < 1


@pytest.mark.parametrize("size", [100, 7_001, 10**6])
def test_sound_of_segments_from_blocks_of_any_size(size):
    audio = np.arange(160_000, dtype=np.float32)
    segments = [Segment(0.0, 1.0, 1), Segment(1.0, 2.5, 1), Segment(7.0, 7.5, 1), Segment(9, 10, 1)]
    blocks = (audio[at : at + size] for at in range(0, len(audio), size))
    for segment, sound in slices(blocks, segments, 16_000):
        expected = audio[round(segment.start_s * 16_000) : round(segment.stop_s * 16_000)]
        np.testing.assert_array_equal(sound, expected)
