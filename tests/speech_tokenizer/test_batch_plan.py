import numpy as np
import pytest

from megatron_speech.errors import DataError
from megatron_speech.speech_tokenizer.batch_plan import EpochBatchPlan, MixedBatchPlan, make_plan


def test_an_epoch_shows_every_recording_once_in_batches_of_like_length():
    durations = np.random.default_rng(0).uniform(0.5, 10, size=640)
    plan = EpochBatchPlan(durations, batch_size=16, seed=1)
    batches = [plan.batch(iteration) for iteration in range(40)]
    assert sorted(np.concatenate(batches)) == list(range(640))
    assert np.mean([np.ptp(durations[batch]) for batch in batches]) < 2
    assert not np.array_equal(plan.batch(0), plan.batch(40))


@pytest.mark.parametrize("weights", [(), (1.0, 3.0)])
def test_batches_are_a_pure_function_of_seed_and_step(weights):
    durations = np.linspace(1, 9, 100)

    def plan(seed: int):
        return make_plan(durations, [30, 70], weights, 8, seed)

    one, two = plan(5), plan(5)
    two.batch(177)
    for step in (130, 3, 130):
        np.testing.assert_array_equal(one.batch(step), two.batch(step))
    assert not np.array_equal(one.batch(3), plan(6).batch(3))


def test_sources_are_mixed_in_proportion_and_none_is_left_out():
    durations = np.random.default_rng(0).uniform(0.5, 10, size=400)
    plan = MixedBatchPlan(durations, [40, 360], weights=[1, 3], batch_size=8, seed=2)
    batches = [plan.batch(iteration) for iteration in range(100)]
    shown = np.concatenate(batches)
    for stretch in (shown[:400], shown[400:]):
        assert (stretch < 40).sum() == 100
    counts = np.bincount(shown, minlength=400)
    assert set(counts[:40]) == {5}  # 200 of 40
    assert set(counts[40:]) == {1, 2}  # 600 of 360
    assert np.mean([np.ptp(durations[batch]) for batch in batches]) < 2
    mixed = sum(0 < (batch < 40).sum() < 8 for batch in batches)
    assert mixed > 60


def test_odd_weights_fill_every_batch():
    plan = MixedBatchPlan([1.0] * 9, [3, 3, 3], weights=[1, 1, 1], batch_size=4, seed=0)
    assert sum(plan.quotas) == 200
    assert max(plan.quotas) - min(plan.quotas) == 1
    assert all(len(plan.batch(step)) == 4 for step in range(60))


def test_too_few_recordings_are_refused():
    with pytest.raises(DataError, match="do not fill one batch"):
        EpochBatchPlan([1.0] * 3, 4, seed=0)
    with pytest.raises(DataError, match="number 2 has no usable"):
        MixedBatchPlan([1.0] * 3, [3, 0], [1, 1], 4, seed=0)
