"""Many workers, one folder: who takes which shard, without anyone in charge.

Worker k of n begins with shards k, k + n, ... and then takes what others have left undone. A claim
is a file that its owner touches while it works. It saves work and decides nothing: shards are
written whole, and two workers that make the same one write the same bytes.
"""

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..files import has_ended, this_process

STALE_S = 300.0
"""A claim that was not touched for so long belongs to a worker that is gone."""
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


class Claims:
    """Claims of one worker in one folder. Use as a context manager: leaving gives them back."""

    def __init__(self, folder: Path, stale_s: float = STALE_S):
        self._folder, self._stale_s = folder, stale_s
        self._held: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, daemon=True)

    def __enter__(self) -> "Claims":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._stop.set()
        self._thread.join()
        for name in list(self._held):
            self.release(name)

    def take(self, name: str) -> bool:
        """Claim `name` unless a living worker has it."""
        path = self._folder / name
        if path.exists() and not self._remove_if_gone(path):
            return False
        token = uuid.uuid4().hex
        owner = {"host": platform.node(), "process": this_process(), "token": token}
        with self._lock:
            if self._stop.is_set():
                return False
            self._folder.mkdir(parents=True, exist_ok=True)  # gone where others closed the job
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                return False
            os.write(descriptor, json.dumps(owner).encode())
            os.close(descriptor)
            self._held[name] = token
        return True

    def release(self, name: str) -> None:
        """Give a claim back, unless another worker has taken it over."""
        with self._lock:
            token = self._held.pop(name)
        path = self._folder / name
        if _read(path).get("token") == token:
            path.unlink(missing_ok=True)

    def wait(self, seconds: float) -> bool:
        """Sleep; True if the claims are being given back and nothing more should be taken."""
        return self._stop.wait(seconds)

    def _remove_if_gone(self, path: Path) -> bool:
        """Remove a claim whose worker is dead or silent; True if none is left."""
        owner = _read(path)
        try:
            silent_s = time.time() - path.stat().st_mtime
        except FileNotFoundError:
            return True
        if not has_ended(str(owner.get("process"))) and silent_s < self._stale_s:
            return False
        path.unlink(missing_ok=True)
        return True

    def _keep_fresh(self) -> None:
        while not self._stop.wait(self._stale_s / 10):
            with self._lock:
                for name in self._held:
                    with suppress(OSError):  # taken over, or a server that does not answer now
                        os.utime(self._folder / name)


def _read(path: Path) -> dict[str, object]:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


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
