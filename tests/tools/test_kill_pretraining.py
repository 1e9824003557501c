"""Pre-trainings that are killed, stopped and damaged go on exactly, or say why they cannot."""

import os
import random
import signal
import time

import pytest

from megatron_speech.training.checkpoint import latest_iteration
from tests.tools.pretraining import (
    TINY,
    TINY_LORA,
    assert_same_runs,
    is_saving,
    kill_when,
    random_moment,
    start,
    step_of,
    write_base_and_data,
    write_data,
)

ITERS = ["--train-iters", "16", "--save-interval", "2", "--lr-warmup-iters", "2"]
WAYS = {
    "whole": [],
    "sharded": ["--use-distributed-optimizer"],
    "sharded, in the background": ["--use-distributed-optimizer", "--async-save"],
}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    data = write_data(tmp_path_factory.mktemp("data"))
    return lambda save, *more: [*TINY, *ITERS, *data, "--save", str(save), *more]


@pytest.mark.parametrize("way", WAYS)
def test_three_kills_change_no_bit(way, command, tmp_path):
    assert kill_three_times(way, command, tmp_path) > 50


def test_three_kills_change_no_bit_of_adapters_and_new_rows(tmp_path):
    data = write_base_and_data(tmp_path)

    def command(save, *more):
        return [*TINY_LORA, *ITERS, *data, "--save", str(save), *more]

    assert kill_three_times("sharded, in the background", command, tmp_path) > 20


def kill_three_times(way, command, tmp_path):
    """At random moments and while a checkpoint is written; returns how many tensors are equal."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert not kill_when(command(whole, *WAYS[way]), lambda: False)
    chance = random.Random(way)
    for _ in range(2):
        assert kill_when(command(killed, *WAYS[way]), random_moment(chance, killed)[1])
    first = step_of(killed)
    assert kill_when(
        command(killed, *WAYS[way]), lambda: step_of(killed) > first and is_saving(killed)
    )
    assert step_of(killed) < 16
    assert not kill_when(command(killed, *WAYS[way]), lambda: False)
    return assert_same_runs(whole, killed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_s_signal_saves_and_says_so(number, command, tmp_path):
    save = tmp_path / "run"
    process = start(command(save, "--train-iters", "5000", "--async-save"), tmp_path / "output")
    deadline = time.monotonic() + 600
    while step_of(save) < 3:
        time.sleep(0.01)
        assert process.is_alive()
        assert time.monotonic() < deadline
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 0
    said = [line for line in (tmp_path / "output").read_text().splitlines() if "stopped at" in line]
    step = latest_iteration(save)
    assert said == [
        f"stopped at step {step}: {signal.Signals(number).name} received; saved in {save}, "
        "the same command continues"
    ]
    assert not is_saving(save)
