"""Task k of n: each program knows its share; each worker its number; one that is killed is said."""

import os
import signal

import pytest

from megatron_speech.errors import ConfigError, DataError
from megatron_speech.interleaving.generate import device_of_worker
from megatron_speech.jobs.tasks import Share, find_share, run_tasks, worker_number
from tests.chat.fake_engine import until


def slurm(task: int, least: int, most: int, step: int = 1) -> dict[str, str]:
    names = ("ID", "MIN", "MAX", "STEP", "COUNT")
    values = (task, least, most, step, (most - least) // step + 1)
    return {f"SLURM_ARRAY_TASK_{n}": str(v) for n, v in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Share(0, 1)),
        ({"RANK": "11", "WORLD_SIZE": "16", "LOCAL_RANK": "3"}, Share(11, 16, 3)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, Share(5, 8, 1)),
        (slurm(3, 0, 7), Share(3, 8)),
        (slurm(7, 1, 9, 2), Share(3, 5)),
        (slurm(1, 0, 3) | {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "2"}, Share(6, 16, 2)),
        ({"RANK": "1"}, Share(0, 1)),
    ],
)
def test_programs_find_their_share(environment, expected):
    assert find_share(None, None, environment) == expected
    assert find_share(2, 5, environment) == Share(2, 5)


@pytest.mark.parametrize(("task", "tasks"), [(1, None), (None, 3), (3, 3), (-1, 3)])
def test_half_a_number_is_refused(task, tasks):
    with pytest.raises(ConfigError, match="--task"):
        find_share(task, tasks, {})


def test_an_array_with_gaps_is_refused():
    """--array=3,7: two tasks, and the shares of two would be those of 0 and 4."""
    array = {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "2"}
    with pytest.raises(ConfigError, match="task 7 of a Slurm array with gaps"):
        find_share(None, None, array | {"SLURM_ARRAY_TASK_ID": "7"})


@pytest.mark.parametrize("tasks", [1, 3, 20])
def test_shares_hold_each_item_once(tasks):
    shares = [list(Share(task, tasks).of(range(12))) for task in range(tasks)]
    assert sorted(item for share in shares for item in share) == list(range(12))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def number(_):
    return os.getpid(), worker_number()


def number_of_two(folder):
    """Waits for the other worker: one that is quick would do all tasks alone."""
    (folder / str(os.getpid())).touch()
    until(lambda: len(list(folder.iterdir())) == 2, seconds=300)
    return number(None)


def test_workers_are_numbered(tmp_path):
    found = set(run_tasks(number_of_two, [tmp_path] * 8, workers=2, description="counting"))
    assert {worker for _, worker in found} == {0, 1}
    assert len(found) == 2
    assert run_tasks(number, [0], workers=1, description="counting") == [(os.getpid(), 0)]


def test_fresh_processes_do_one_task_each():
    done = []
    found = run_tasks(
        number, [5, 6, 7], workers=1, description="counting", fresh=True, done=done.append
    )
    assert len({process for process, _ in found} - {os.getpid()}) == 3
    assert sorted(done) == [5, 6, 7]


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
