"""Tasks spread over processes: results in order, the same for any number of workers."""

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError
from ..files import read_json_object, write_json
from ..processes import begin_worker, ctrl_c_waits, die_with, stopping_together, task
from ..progress import Progress

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Let a resumable job own `folder`: remember its settings, refuse to go on with others.

    Raises:
        ConfigError: the folder holds work begun with other settings.
    """
    path = folder / "settings.json"
    settings = json.loads(json.dumps(settings))
    if path.exists():
        found = read_json_object(path)
        differing = sorted(k for k in {*found, *settings} if found.get(k) != settings.get(k))
        if differing:
            raise ConfigError(
                f"{folder} was begun with other settings ({', '.join(differing)}): "
                f"{[found.get(k) for k in differing]} there, "
                f"{[settings.get(k) for k in differing]} now; "
                "remove the folder or choose another one"
            )
        return
    write_json(path, settings)


def run_tasks(
    function: Callable[[Argument], Result],
    arguments: Sequence[Argument],
    *,
    workers: int,
    description: str,
    threads_per_worker: int = 1,
) -> list[Result]:
    """Call `function` on every argument, in this process or in `workers` fresh ones.

    `function` must be importable by name. The first error of a task ends the run.

    Raises:
        ConfigError: fewer than one worker.
        DataError: a worker was killed from outside (most often for memory).
    """
    if workers < 1:
        raise ConfigError(f"workers is {workers}; expected at least 1")
    with Progress(description, len(arguments), "tasks") as progress:
        if workers == 1 or len(arguments) <= 1:
            results = []
            for argument in arguments:
                results.append(function(argument))
                progress.advance()
            return results
        context = multiprocessing.get_context("spawn")
        begun = context.Value("i", 0)
        pool = ProcessPoolExecutor(
            min(workers, len(arguments)),
            context,
            _begin_worker,
            (threads_per_worker, begun, os.getpid()),
        )
        with stopping_together(pool, description):
            with ctrl_c_waits():
                futures = [pool.submit(task, function, argument) for argument in arguments]
            for future in as_completed(futures):
                future.result()
                progress.advance()
            return [future.result() for future in futures]


def worker_number() -> int:
    """Which of the workers of `run_tasks` this process is, from 0; 0 outside of any."""
    return _number


_number = 0


def _begin_worker(threads: int, begun: Any, parent: int) -> None:
    global _number
    begin_worker()
    die_with(parent)  # else it would go on with its task beside the run that continues this one
    with begun.get_lock():
        _number = begun.value
        begun.value += 1
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
