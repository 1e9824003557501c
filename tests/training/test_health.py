"""Bad steps: found by NaN, spikes and norms; stopped at, left out, or gone back from."""

import json
import math

import pytest

from megatron_speech.errors import ConfigError, TrainingError
from megatron_speech.training.health import Health, HealthConfig
from megatron_speech.training.loop import LoopConfig, train
from megatron_speech.training.reporting import read_metrics


class Counter:
    """A trainer whose weights are the list of batches it learned; chosen batches are bad."""

    samples_per_step, is_main_rank = 2, True

    def __init__(self, bad=None, loss=2.0):
        self.bad, self.loss = bad or {}, loss
        self.learned = []

    def train_step(self, iteration, batch, judge):
        metrics = {"lm loss": self.loss, "grad-norm": 1.0, **self.bad.get(batch, {})}
        faulty = judge(metrics) is not None
        if not faulty:
            self.learned.append(batch)
        return metrics | {"number of skipped iterations": float(faulty)}

    def interval(self, seconds):
        return {"tokens/s/GPU": 1.0}

    def evaluate(self, iteration):
        return {}

    def save(self, directory):
        (directory / "learned.json").write_text(json.dumps(self.learned))

    def load(self, directory, own=True):
        self.learned = json.loads((directory / "learned.json").read_text())

    def any_rank(self, flag):
        return flag


NAN = {"lm loss": math.nan}


def loop(folder, **changes):
    settings = {"train_iters": 12, "save": folder, "save_interval": 5, "tensorboard": False}
    return LoopConfig(**{**settings, **changes})


@pytest.mark.parametrize(
    ("metrics", "finding"),
    [
        ({"lm loss": math.nan}, "lm loss is nan"),
        ({"speech loss": math.inf}, "speech loss is inf"),
        ({"grad-norm": math.nan}, "grad-norm is nan"),
        ({"grad-norm": 9.0}, "--grad-norm-skip-threshold 8"),
        ({"lm loss": 3.1}, "1.55 times the 2 of late"),
        ({"lm loss": 2.9}, None),
        ({"lm loss": 0.1}, None),
    ],
)
def test_what_is_found(metrics, finding):
    health = Health(HealthConfig(loss_spike_factor=1.5, grad_norm_skip_threshold=8))
    usual = {"lm loss": 2.0, "grad-norm": 1.0}
    for _ in range(10):
        health.accept(usual)
    found = health.judge(usual | metrics)
    assert (found is None) == (finding is None)
    assert finding is None or finding in found


def test_a_spike_is_no_spike_while_little_is_known():
    health = Health(HealthConfig(loss_spike_factor=1.5))
    health.accept({"loss": 1.0, "grad-norm": 1.0})
    assert health.judge({"loss": 9.0, "grad-norm": 1.0}) is None


def test_stop_leaves_the_run_as_it_was(tmp_path):
    trainer = Counter({7: NAN})
    with pytest.raises(TrainingError, match=r"step 8 is bad: lm loss is nan.*--bad-step-policy"):
        train(trainer, loop(tmp_path))
    assert trainer.learned == list(range(7))
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "5\n"


def test_skip_leaves_a_batch_out(tmp_path):
    trainer = Counter({7: NAN})
    result = train(trainer, loop(tmp_path), HealthConfig(bad_step_policy="skip"))
    assert trainer.learned == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    assert (result.iteration, result.metrics["number of skipped iterations"]) == (12, 1)
    assert result.metrics["lm loss"] == 2.0
    assert "lm loss is nan" in read_metrics(tmp_path, "event")[0]["text"]
    assert "lm loss" not in read_metrics(tmp_path)[7]


def test_rollback_goes_on_behind_the_bad_batch(tmp_path):
    trainer = Counter({7: NAN})
    train(trainer, loop(tmp_path), HealthConfig(bad_step_policy="rollback"))
    assert trainer.learned == [0, 1, 2, 3, 4, *range(8, 15)]
    assert [record["iteration"] for record in read_metrics(tmp_path)] == list(range(1, 13))
    assert "back to step 5" in read_metrics(tmp_path, "event")[0]["text"]


class Killed(Exception):
    pass


class Mortal(Counter):
    """Dies once, in the midst of a step."""

    def __init__(self, bad, death):
        super().__init__(bad)
        self.death = death

    def train_step(self, iteration, batch, judge):
        if batch == self.death:
            raise Killed
        return super().train_step(iteration, batch, judge)


@pytest.mark.parametrize("death", [4, 6, 9, 14, 17])
def test_a_killed_run_that_went_back_resumes_as_if_nothing_had_been(death, tmp_path):
    health = HealthConfig(bad_step_policy="rollback", loss_spike_factor=1.5)
    bad = {7: NAN, 15: {"lm loss": 3.5}}
    whole, parts = Counter(bad), Counter(bad)
    train(whole, loop(tmp_path / "whole", train_iters=20), health)
    with pytest.raises(Killed):
        train(Mortal(bad, death), loop(tmp_path / "parts", train_iters=20), health)
    train(parts, loop(tmp_path / "parts", train_iters=20), health)
    assert parts.learned == whole.learned
    assert len(set(whole.learned)) == 20
    assert not {7, 15} & set(whole.learned)
    records = [read_metrics(tmp_path / name) for name in ("whole", "parts")]
    assert records[0] == records[1]


def test_going_back_needs_a_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint in --save"):
        train(Counter({3: NAN}), loop(tmp_path), HealthConfig(bad_step_policy="rollback"))


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_too_many_bad_steps_end_a_run(policy, tmp_path):
    bad = dict.fromkeys(range(6, 99), NAN)
    health = HealthConfig(bad_step_policy=policy, bad_step_limit=3)
    with pytest.raises(TrainingError, match=r"4th in a row \(--bad-step-limit\)"):
        train(Counter(bad), loop(tmp_path), health)


def test_bad_steps_far_apart_do_not_add_up(tmp_path):
    bad = dict.fromkeys((1, 3, 5, 7, 9), NAN)
    health = HealthConfig(bad_step_policy="skip", bad_step_limit=1)
    assert train(Counter(bad), loop(tmp_path), health).finished


def test_an_unknown_figure_is_refused():
    with pytest.raises(ConfigError, match="--loss-spike-factor"):
        HealthConfig(loss_spike_factor=math.nan)
