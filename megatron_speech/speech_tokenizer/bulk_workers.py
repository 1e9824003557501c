"""Many workers, one folder: who takes which shard, without anyone in charge.

Worker k of n begins with shards k, k + n, ... and then takes what others have left undone. A claim
saves work and decides nothing: shards are written whole, and two workers that make the same one
write the same bytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..claims import Claims
from ..errors import ConfigError

_BETWEEN_LOOKS_S = 2.0


@dataclass(frozen=True)
class Worker:
    """Worker `task` of `tasks`; `local` counts those on the same node."""

    task: int
    tasks: int
    local: int = 0


def find_worker(task: int | None, tasks: int | None, environment: Mapping[str, str]) -> Worker:
    """Which worker this is: by setting, else from torchrun or srun, times a Slurm array.

    Raises:
        ConfigError: only one of the two settings, or a task outside 0..tasks-1.
    """
    if (task is None) != (tasks is None):
        raise ConfigError("--task and --tasks go together: --task 3 --tasks 8 is the fourth of 8")
    if task is not None and tasks is not None:
        if not 0 <= task < tasks:
            raise ConfigError(f"--task is {task}; expected 0 to --tasks - 1 = {tasks - 1}")
        return Worker(task, tasks)

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
    # an array with gaps numbers some tasks beyond its count; any start will do
    place = (number("SLURM_ARRAY_TASK_ID", first) - first) // step % count
    return Worker(place * world + rank, count * world, local)


def shards_to_do(
    paths: list[Path], worker: Worker, claims: Claims, finish_others: bool
) -> Iterator[int]:
    """Claim shards that do not exist yet, one by one: numbers of `paths`.

    With `finish_others` the worker goes on with the shards of others, and waits for those in
    progress until they are there or their workers are gone.
    """
    own = list(range(worker.task, len(paths), worker.tasks))
    later = [number for number in range(len(paths)) if number % worker.tasks != worker.task]
    turn = sum(number < worker.task for number in later)
    open_ones = own + ((later[turn:] + later[:turn]) if finish_others else [])
    while open_ones:
        left = []
        for number in open_ones:
            name = paths[number].name
            if paths[number].exists():
                continue
            if not claims.take(name):
                left.append(number)
            elif paths[number].exists():  # finished between the two looks
                claims.release(name)
            else:
                yield number
        open_ones = left if finish_others else []
        if open_ones and claims.wait(_BETWEEN_LOOKS_S):
            return
