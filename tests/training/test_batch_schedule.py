"""Batches of a changing size: the ones core's calculator gives, each known by its number."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_speech.training.batch_schedule import BatchSchedule


def test_one_size():
    schedule = BatchSchedule(global_batch_size=6, schedule=None, seq_length=256)
    assert [schedule.first(n) for n in (0, 1, 7)] == [0, 6, 42]
    assert schedule.size(10**9) == 6


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    thresholds=st.sets(st.integers(1, 400), max_size=3),
    seq_length=st.sampled_from([1, 7, 32]),
)
def test_sizes_are_those_of_core(sizes, thresholds, seq_length):
    from megatron.core.num_microbatches_calculator import StepBatchsizeNumMicroBatchesCalculator

    starts = [0, *(seq_length * t for t in sorted(thresholds))]
    parts = list(zip(starts, sizes, strict=False))
    text = " ".join(f"{tokens}:{size}" for tokens, size in parts)
    core = StepBatchsizeNumMicroBatchesCalculator(1, 1, False, 1, text, seq_length)
    ours = BatchSchedule(global_batch_size=parts[-1][1], schedule=text, seq_length=seq_length)
    consumed = 0
    for number in range(120):
        core.update(consumed, consistency_check=False)
        assert (ours.first(number), ours.size(number)) == (consumed, core.num_micro_batches)
        consumed += core.num_micro_batches
    assert ours.sizes() == sorted({size for _, size in parts})


@pytest.mark.parametrize("text", ["0:4 1K:8", "0:4,1000:8", " 0:4  1e3:8 "])
def test_notation(text):
    schedule = BatchSchedule(global_batch_size=8, schedule=text, seq_length=10)
    assert [schedule.first(n) for n in (24, 25, 26)] == [96, 100, 108]
