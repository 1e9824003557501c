"""The loop with the ddp backend on a small regression: resume, signals, torn writes."""

import errno
import gc
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from megatron_speech.errors import CheckpointError, ConfigError
from megatron_speech.training import checkpoint
from megatron_speech.training.adamw_config import OptimizerConfig
from megatron_speech.training.ddp import DdpTrainer
from megatron_speech.training.health import HealthConfig
from megatron_speech.training.loop import LoopConfig, train
from megatron_speech.training.reporting import read_metrics


class Regression:
    """Noisy linear data; batches are a pure function of the iteration."""

    samples_per_step = 8

    def __init__(self, at_step=None):
        self.at_step = at_step or {}

    def before_step(self, model, iteration):
        pass

    def batches(self, iteration):
        generator = torch.Generator().manual_seed(iteration)
        inputs = torch.randn(self.samples_per_step, 4, generator=generator)
        return [(half, half.sum(1, keepdim=True)) for half in inputs.chunk(2)]

    def loss(self, model, batch, iteration):
        loss = nn.functional.mse_loss(model(batch[0]), batch[1])
        return loss, {"loss": loss}

    def after_step(self, model, iteration):
        self.at_step.get(iteration, lambda: None)()
        return {}

    def drop_step(self, model):
        pass

    def before_save(self):
        pass

    def evaluate(self, model, iteration):
        return {"loss": float(iteration)}


def make(objective=None, hidden=8, train_iters=20):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, hidden), nn.Dropout(0.2), nn.Linear(hidden, 1))
    return DdpTrainer(model, objective or Regression(), OptimizerConfig(), train_iters)


def config(folder, **changes):
    base = LoopConfig(
        train_iters=20, save=folder, save_interval=5, log_interval=5, eval_interval=10
    )
    return replace(base, tensorboard=False, **changes)


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def uninterrupted(folder):
    trainer = make()
    assert train(trainer, config(folder)).finished
    return weights(trainer), read_metrics(folder)


@pytest.mark.parametrize("step", [13, 10])
def test_a_stopped_run_continues_bit_for_bit(step, tmp_path):
    expected, expected_log = uninterrupted(tmp_path / "whole")
    interrupt = Regression({step - 1: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    first = train(make(interrupt), config(tmp_path / "parts"))
    assert (first.iteration, first.finished) == (step, False)
    resumed = make()
    assert train(resumed, config(tmp_path / "parts")).finished
    assert torch.equal(weights(resumed), expected)
    assert read_metrics(tmp_path / "parts") == expected_log


def test_a_killed_run_repeats_the_steps_after_its_checkpoint(tmp_path):
    expected, expected_log = uninterrupted(tmp_path / "whole")

    def die():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        train(make(Regression({12: die})), config(tmp_path / "parts"))
    assert checkpoint.latest_iteration(tmp_path / "parts") == 10
    torn = checkpoint.begin(tmp_path / "parts", 15)  # a checkpoint that was being written
    (torn / "state.pt").write_bytes(b"half")
    with open(tmp_path / "parts" / "metrics.jsonl", "a") as log:
        log.write('{"kind": "train", "itera')
    resumed = make()
    assert train(resumed, config(tmp_path / "parts")).finished
    assert torch.equal(weights(resumed), expected)
    assert read_metrics(tmp_path / "parts") == expected_log


def test_old_checkpoints_are_removed_and_finished_runs_do_nothing(tmp_path):
    uninterrupted(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("iter_*")) == ["iter_0000015", "iter_0000020"]
    again = train(make(), config(tmp_path))
    assert (again.iteration, again.finished) == (20, True)


def test_a_torn_later_checkpoint_does_not_cost_the_whole_one(tmp_path):
    uninterrupted(tmp_path)
    checkpoint.begin(tmp_path, 40)  # killed while this was written
    checkpoint.begin(tmp_path, 30)
    checkpoint.commit(tmp_path, 30, keep_last=1)
    assert checkpoint.latest_iteration(tmp_path) == 30


def test_first_checkpoints_that_were_cut_off_do_not_end_a_run(tmp_path):
    """One at step 5; then, stopped earlier, one at step 3: neither was whole, none had a marker."""
    for step in (5, 3, 4):
        (checkpoint.begin(tmp_path, step) / "state.pt").write_bytes(b"half")
        assert checkpoint.latest_iteration(tmp_path) is None
    assert train(make(), config(tmp_path)).finished


def test_an_old_checkpoint_loses_its_name_before_its_files(tmp_path, monkeypatch):
    for step in (5, 10):
        (checkpoint.begin(tmp_path, step) / "state.pt").write_bytes(b"whole")
        checkpoint.commit(tmp_path, step, keep_last=None)
    named = []
    monkeypatch.setattr(shutil, "rmtree", lambda path: named.extend(tmp_path.glob("iter_*")))
    checkpoint.commit(tmp_path, 10, keep_last=1)
    assert [path.name for path in named] == ["iter_0000010"]
    monkeypatch.undo()
    left = next(tmp_path.glob(".iter_0000005.*.part"))
    process = left.name.split(".")[2]
    place, pid, began = process.split("-")
    left.rename(left.with_name(left.name.replace(process, f"{place}-{pid}-{int(began) + 1}")))
    checkpoint.commit(tmp_path, 10, keep_last=1)
    assert not list(tmp_path.glob(".iter_*"))


def test_a_signal_in_the_last_step_does_not_cost_the_last_evaluation(tmp_path):
    interrupt = Regression({19: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    result = train(make(interrupt), config(tmp_path, eval_interval=0))
    assert result.finished
    assert [record["iteration"] for record in read_metrics(tmp_path, "valid")] == [20]


class LateSignals(Regression):
    """Sends signals in the last evaluation, when nothing but saving is left."""

    def __init__(self, *numbers):
        super().__init__()
        self.numbers = numbers

    def before_save(self):
        pass

    def evaluate(self, model, iteration):
        if iteration == 20:
            for number in self.numbers:
                os.kill(os.getpid(), number)
        return super().evaluate(model, iteration)


@pytest.mark.parametrize("when", ["last step", "last evaluation"])
def test_ctrl_c_at_the_very_end_saves_the_run_and_still_interrupts(when, tmp_path):
    press = {19: lambda: os.kill(os.getpid(), signal.SIGINT)}
    objective = Regression(press) if when == "last step" else LateSignals(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(make(objective), config(tmp_path, save_interval=7))
    assert checkpoint.latest_iteration(tmp_path) == 20
    assert read_metrics(tmp_path, "valid")[-1]["iteration"] == 20
    again = train(make(), config(tmp_path))
    assert (again.iteration, again.finished) == (20, True)


def test_a_scheduler_s_signal_at_the_very_end_is_done_with(tmp_path):
    result = train(make(LateSignals(signal.SIGUSR1, signal.SIGTERM)), config(tmp_path))
    assert result.finished
    assert checkpoint.latest_iteration(tmp_path) == 20


def test_ctrl_c_in_the_middle_returns_and_twice_interrupts_at_once(tmp_path):
    def press():
        os.kill(os.getpid(), signal.SIGINT)

    first = train(make(Regression({12: press})), config(tmp_path / "a"))
    assert (first.iteration, first.finished) == (13, False)
    twice = Regression({12: lambda: (press(), press())})
    with pytest.raises(KeyboardInterrupt):
        train(make(twice), config(tmp_path / "b"))
    assert checkpoint.latest_iteration(tmp_path / "b") == 10


def test_checkpoints_are_on_the_disk_before_they_are_declared_whole(tmp_path, monkeypatch):
    """Every file of a checkpoint, and the folders that name it, are synced before the marker."""
    synced, sync = set(), os.fsync

    def remember(descriptor):
        status = os.fstat(descriptor)
        synced.add((status.st_dev, status.st_ino))
        sync(descriptor)

    write_text = checkpoint.write_text

    def check_then_write(path, text):
        folder = checkpoint.iteration_directory(tmp_path, int(text))
        for part in (folder, *folder.iterdir()):
            status = part.stat()
            assert (status.st_dev, status.st_ino) in synced, part
        checked.append(int(text))
        write_text(path, text)

    checked = []
    monkeypatch.setattr(os, "fsync", remember)
    monkeypatch.setattr(checkpoint, "write_text", check_then_write)
    train(make(), config(tmp_path))
    assert checked == [5, 10, 15, 20]


def test_a_checkpoint_file_is_whole_or_not_there(tmp_path, monkeypatch):
    def half(value, path, *_):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    (tmp_path / "iter").mkdir()
    with pytest.raises(CheckpointError, match="MiB are free"):
        make().save(tmp_path / "iter")
    assert list((tmp_path / "iter").iterdir()) == []


def test_a_full_disk_is_said_in_words(tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="MiB are free"):
        train(make(), config(tmp_path))
    assert checkpoint.latest_iteration(tmp_path) is None


def test_time_limit_saves_and_stops(tmp_path):
    result = train(make(), config(tmp_path, exit_duration_in_mins=1e-9))
    assert (result.iteration, result.finished) == (1, False)
    assert checkpoint.latest_iteration(tmp_path) == 1


def test_a_stop_as_planned_does_not_cost_the_evaluation_of_its_step(tmp_path):
    result = train(make(), config(tmp_path, exit_interval=10))
    assert (result.iteration, result.finished) == (10, False)
    assert [record["iteration"] for record in read_metrics(tmp_path, "valid")] == [10]


def test_wrong_checkpoints_are_refused_in_words(tmp_path):
    uninterrupted(tmp_path)
    with pytest.raises(CheckpointError, match="another shape"):
        train(make(hidden=9), config(tmp_path))
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("99")
    with pytest.raises(CheckpointError, match="names step 99"):
        train(make(), config(tmp_path))
    with pytest.raises(ConfigError, match="no checkpoint found"):
        train(make(), config(tmp_path / "new", load=tmp_path / "nothing"))


class Parts(Regression):
    """Metrics with a name of their own; one batch is a hundredfold."""

    def __init__(self):
        super().__init__()
        self.updated = []

    def batches(self, iteration):
        factor = 100.0 if iteration == 12 else 1.0
        return [(factor * inputs, factor * known) for inputs, known in super().batches(iteration)]

    def loss(self, model, batch, iteration):
        loss, _ = super().loss(model, batch, iteration)
        return 3 * loss, {"part loss": loss.detach()}

    def after_step(self, model, iteration):
        self.updated.append(iteration)
        return {}


def test_a_spike_of_the_total_loss_is_a_bad_step_that_is_no_step(tmp_path):
    objective = Parts()
    health = HealthConfig(bad_step_policy="skip", loss_spike_factor=10)
    train(make(objective), config(tmp_path), health)
    records = read_metrics(tmp_path)
    for record in records:
        assert record["loss"] == pytest.approx(3 * record["part loss"])
    bad = [r["iteration"] for r in records if r["number of skipped iterations"]]
    assert bad == [13]
    assert objective.updated == [n for n in range(20) if n != 12]


def test_learning_rate_schedule():
    schedule = OptimizerConfig(lr=1.0, min_lr=0.1, lr_warmup_iters=4, lr_decay_start=0.5)
    rates = [schedule.lr_at(i, 20) for i in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:11] == [1.0] * 7
    assert rates[20] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(("interval", "collections"), [(0, 1 + 4), (2, 1 + 4 + 10)])
def test_garbage_is_collected_at_chosen_steps_alone(interval, collections, tmp_path, monkeypatch):
    """At the start, around evaluations and saves (4 of them in 20 steps), and each interval."""
    collected, enabled = [], []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(1))
    objective = Regression({step: lambda: enabled.append(gc.isenabled()) for step in range(20)})
    settings = config(tmp_path, manual_gc=True, manual_gc_interval=interval)
    train(make(objective), settings)
    assert enabled == [False] * 20
    assert len(collected) == collections
    assert gc.isenabled()


@pytest.mark.parametrize("settings", [{"manual_gc_interval": 5}, {"manual_gc_interval": -1}])
def test_an_interval_of_collections_needs_manual_gc(settings):
    with pytest.raises(ConfigError, match="--manual-gc-interval"):
        LoopConfig(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda notes: notes.replace('"batches_left_out": 0', '"batches_left_out": 3'), "checksum"),
        (lambda notes: notes.replace('"batches_left_out"', '"batches_lfet_out"'), "checksum"),
        (lambda notes: notes[:30], "no JSON"),
        (lambda notes: "[1]", "list instead of values by name"),
        # older notes have no checksum: what cannot be is refused
        (lambda notes: '{"batches_left_out": -2, "losses": []}', "batches_left_out is -2"),
        (lambda notes: '{"batches_left_out": 0, "losses": [NaN]}', "a list of numbers"),
    ],
)
def test_damaged_or_edited_notes_of_the_loop_are_refused(change, message, tmp_path):
    train(make(), config(tmp_path, train_iters=5))
    path = checkpoint.iteration_directory(tmp_path, 5) / "loop.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(CheckpointError, match=message):
        train(make(), config(tmp_path))


def test_notes_without_a_checksum_are_read(tmp_path):
    train(make(), config(tmp_path, train_iters=5))
    path = checkpoint.iteration_directory(tmp_path, 5) / "loop.json"
    path.write_text('{"batches_left_out": 1, "losses": [2.5]}')
    assert checkpoint.read_notes(path.parent) == {"batches_left_out": 1, "losses": [2.5]}
    assert train(make(), config(tmp_path)).finished
