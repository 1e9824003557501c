"""Workers of a job: each knows its number; one that is killed is said in words."""

import os
import signal
import time

import pytest

from megatron_speech.corpus.generate import device_of_worker
from megatron_speech.corpus.tasks import run_tasks, worker_number
from megatron_speech.errors import DataError


def number(_):
    time.sleep(0.2)  # long enough for the other worker to take a task
    return os.getpid(), worker_number()


def test_workers_are_numbered():
    found = set(run_tasks(number, range(8), workers=2, description="counting"))
    assert {worker for _, worker in found} == {0, 1}
    assert len(found) == 2
    assert run_tasks(number, [0], workers=1, description="counting") == [(os.getpid(), 0)]


def killed(argument):
    if argument == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_said():
    with pytest.raises(DataError, match="a worker of 'speaking' was killed, perhaps for lack of"):
        run_tasks(killed, range(8), workers=2, description="speaking")


@pytest.mark.parametrize(
    ("device", "gpus", "devices"),
    [
        ("auto", 0, ["auto"] * 3),
        ("cpu", 2, ["cpu"] * 3),
        ("auto", 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda", 8, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:5", 8, ["cuda:5"] * 3),
    ],
)
def test_workers_share_the_gpus_in_turn(device, gpus, devices):
    assert [device_of_worker(device, worker, gpus) for worker in range(3)] == devices
