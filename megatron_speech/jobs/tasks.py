"""Task k of n: work that is spread over processes, with the same results however it is spread.

- `Share`: a program was started n times, by torchrun, srun or a Slurm array, and takes every n-th
  item. Trainings and tokenizers, with a GPU each, are started so.
- `run_tasks`: processes of this machine.
- `executors.Place.run`: those, or tasks of a Slurm array or of Ray.
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import ConfigError
from .processes import begin_worker, ctrl_c_waits, die_with, stopping_together, task
from .progress import Progress

Argument = TypeVar("Argument")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Share:
    """Task `task` of `tasks`; `local` counts those on the same node."""

    task: int = 0
    tasks: int = 1
    local: int = 0

    def __str__(self) -> str:
        return f"task {self.task} of {self.tasks}"

    def of(self, items: Sequence[Argument]) -> Sequence[Argument]:
        """Every `tasks`-th of `items`, from the `task`-th on."""
        return items[self.task :: self.tasks]


def find_share(task: int | None, tasks: int | None, environment: Mapping[str, str]) -> Share:
    """Which task this is: by setting, else from torchrun or srun, times a Slurm array.

    Raises:
        ConfigError: only one of the two settings, or a task outside 0..tasks-1.
    """
    if (task is None) != (tasks is None):
        raise ConfigError("--task and --tasks go together: --task 3 --tasks 8 is the fourth of 8")
    if task is not None and tasks is not None:
        if not 0 <= task < tasks:
            raise ConfigError(f"--task is {task}; expected 0 to --tasks - 1 = {tasks - 1}")
        return Share(task, tasks)

    def number(name: str, otherwise: int) -> int:
        value = environment.get(name, "")
        return int(value) if value.isdigit() else otherwise

    rank, world, local = 0, 1, 0
    for names in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ):
        if names[0] in environment and names[1] in environment:
            rank, world, local = (number(n, d) for n, d in zip(names, (0, 1, 0), strict=True))
            break
    first, step = number("SLURM_ARRAY_TASK_MIN", 0), max(number("SLURM_ARRAY_TASK_STEP", 1), 1)
    count = max(number("SLURM_ARRAY_TASK_COUNT", 1), 1)
    place, rest = divmod(number("SLURM_ARRAY_TASK_ID", first) - first, step)
    if rest or not 0 <= place < count:
        raise ConfigError(
            f"task {place * step + first} of a Slurm array with gaps: which of its {count} tasks "
            "that is, is not known; submit an array without gaps (what is there is not made "
            "again), or give --task and --tasks"
        )
    return Share(place * world + rank, count * world, local)


def run_tasks(
    function: Callable[[Argument], Result],
    arguments: Sequence[Argument],
    *,
    workers: int,
    description: str,
    threads_per_worker: int = 1,
    fresh: bool = False,
    done: Callable[[Argument], None] | None = None,
) -> list[Result]:
    """Call `function` on every argument, in this process or in `workers` fresh ones.

    `function` must be importable by name. The first error of a task ends the run.

    Args:
        fresh: each task has a process of its own, that did nothing before, also with one worker.
        done: told of each argument when its task is done; else a bar counts tasks.

    Raises:
        ConfigError: fewer than one worker.
        DataError: a worker was killed from outside (most often for memory).
    """
    if workers < 1:
        raise ConfigError(f"workers is {workers}; expected at least 1")
    if done is None:
        with Progress(description, len(arguments), "tasks") as progress:
            return run_tasks(
                function,
                arguments,
                workers=workers,
                description=description,
                threads_per_worker=threads_per_worker,
                fresh=fresh,
                done=lambda argument: progress.advance(),
            )
    if not arguments or (not fresh and (workers == 1 or len(arguments) == 1)):
        results = []
        for argument in arguments:
            results.append(function(argument))
            done(argument)
        return results
    workers = min(workers, len(arguments))
    if fresh:  # by a fork server: this process may hold threads that must not be forked
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", function.__module__])
        pool = ProcessPoolExecutor(workers, context, begin_worker, max_tasks_per_child=1)
    else:
        context = multiprocessing.get_context("spawn")
        facts = (threads_per_worker, context.Value("i", 0), os.getpid())
        pool = ProcessPoolExecutor(workers, context, _begin_numbered, facts)
    with stopping_together(pool, description):
        with ctrl_c_waits():
            futures = {pool.submit(task, function, argument): argument for argument in arguments}
        for future in as_completed(futures):
            future.result()
            done(futures[future])
        return [future.result() for future in futures]


def worker_number() -> int:
    """Which of the workers of `run_tasks` this process is, from 0; 0 outside of any."""
    return _number


_number = 0


def _begin_numbered(threads: int, begun: Any, parent: int) -> None:
    global _number
    begin_worker()
    die_with(parent)  # else it would go on with its task beside the run that continues this one
    with begun.get_lock():
        _number = begun.value
        begun.value += 1
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
