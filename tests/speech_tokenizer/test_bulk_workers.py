"""Who makes which shard."""

import threading
import time
from pathlib import Path

import pytest

from megatron_speech.claims import Claims
from megatron_speech.errors import ConfigError
from megatron_speech.speech_tokenizer import bulk_workers
from megatron_speech.speech_tokenizer.bulk_workers import Worker, find_worker, shards_to_do


def slurm(task: int, least: int, most: int, step: int = 1) -> dict[str, str]:
    names = ("ID", "MIN", "MAX", "STEP", "COUNT")
    values = (task, least, most, step, (most - least) // step + 1)
    return {f"SLURM_ARRAY_TASK_{n}": str(v) for n, v in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Worker(0, 1)),
        ({"RANK": "11", "WORLD_SIZE": "16", "LOCAL_RANK": "3"}, Worker(11, 16, 3)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, Worker(5, 8, 1)),
        (slurm(3, 0, 7), Worker(3, 8)),
        (slurm(7, 1, 9, 2), Worker(3, 5)),
        (slurm(1, 0, 3) | {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "2"}, Worker(6, 16, 2)),
        (slurm(15, 0, 9), Worker(5, 10)),  # --array=0-8,15
        ({"RANK": "1"}, Worker(0, 1)),
    ],
)
def test_workers_find_their_number(environment, expected):
    assert find_worker(None, None, environment) == expected
    assert find_worker(2, 5, environment) == Worker(2, 5)


@pytest.mark.parametrize(("task", "tasks"), [(1, None), (None, 3), (3, 3), (-1, 3)])
def test_half_a_number_is_refused(task, tasks):
    with pytest.raises(ConfigError, match="--task"):
        find_worker(task, tasks, {})


@pytest.mark.parametrize("tasks", [1, 3, 20])
def test_every_shard_is_made_once_by_whoever_is_there(tmp_path, tasks):
    paths = [tmp_path / f"shard_{n:06d}.parquet" for n in range(12)]
    paths[5].touch()
    made: list[tuple[int, int]] = []

    def work(task: int) -> None:
        worker = Worker(task, tasks)
        with Claims(tmp_path / "claims") as claims:
            for number in shards_to_do(paths, worker, claims, True):
                made.append((number, task))
                time.sleep(0.01)
                paths[number].touch()
                claims.release(paths[number].name)

    threads = [threading.Thread(target=work, args=(task,)) for task in range(0, tasks, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in made) == [n for n in range(12) if n != 5]


def test_a_worker_alone_may_keep_to_its_share_or_wait_for_others(tmp_path, monkeypatch):
    monkeypatch.setattr(bulk_workers, "_BETWEEN_LOOKS_S", 0.02)
    paths = [Path(tmp_path / f"shard_{n}") for n in range(5)]
    with Claims(tmp_path / "c") as claims, Claims(tmp_path / "c") as others:
        assert list(shards_to_do(paths, Worker(1, 2), claims, False)) == [1, 3]
        for name in ("shard_1", "shard_3"):
            claims.release(name)
        others.take("shard_2")
        waiting = shards_to_do(paths, Worker(1, 2), claims, True)
        assert [next(waiting) for _ in range(4)] == [1, 3, 4, 0]
        for number in (1, 3, 4, 0):
            paths[number].touch()
        others.release("shard_2")  # it gave up
        assert next(waiting) == 2
        paths[2].touch()
        assert list(waiting) == []
