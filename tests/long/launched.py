"""A tiny pre-training on two processes under ft_launcher, and what is done to it."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil

from tests.tools.pretraining import TINY, is_saving, step_of

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("LAUNCHER_PYTHON", str(ROOT / ".venv/bin/python"))
"""One that has nvidia-resiliency-ext beside all else."""
START_TIMEOUT_S, HANG_TIMEOUT_S = 120, 20
FAULTS = {"kill": signal.SIGKILL, "hang": signal.SIGSTOP}


def command(save: Path, data: list[str], steps: int, *more: str) -> list[str]:
    """Two processes that save at every third step."""
    flags = ["--train-iters", str(steps), "--save-interval", "3", "--lr-warmup-iters", "2"]
    watch = [f"--start-timeout-s={START_TIMEOUT_S}", f"--hang-timeout-s={HANG_TIMEOUT_S}"]
    launch = [PYTHON, "tools/launch.py", "--launcher=ft_launcher", "--standalone", *watch]
    tool = ["tools/pretrain.py", *TINY, *flags, *data, "--use-distributed-optimizer"]
    return [*launch, "--nproc-per-node=2", *more, *tool, "--save", str(save)]


@dataclass
class Job:
    """A launcher and its processes."""

    save: Path
    process: subprocess.Popen
    struck: set[int] = field(default_factory=set)
    """Processes of starts that a fault has ended."""

    def wait(self, due: Callable[[], bool], what: str, limit_s: float = 900) -> None:
        """Until it is so; the job may not end before."""
        deadline = time.monotonic() + limit_s
        while not due():
            assert self.process.poll() is None, f"the job ended while waiting for {what}"
            assert time.monotonic() < deadline, f"{what}: not within {limit_s:.0f} s"
            time.sleep(0.02)

    def workers(self) -> dict[int, psutil.Process]:
        """By rank, those of the present start."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):
                rank = child.environ().get("RANK")
                if rank is not None and child.pid not in self.struck:
                    found[int(rank)] = child
        return found

    def strike(self, fault: str, moment: str, chance: random.Random) -> float | None:
        """One fault at a random moment; returns how long checkpoints had to wait for the last one.

        None where the fault came while the job was still starting after the last.
        """
        began, first = time.monotonic(), step_of(self.save)
        self.wait(lambda: len(self.workers()) == 2, "a new start")
        waited = None
        if moment == "start":
            time.sleep(chance.uniform(0.0, 12.0))
        else:
            self.wait(lambda: step_of(self.save) > first, "a new checkpoint")
            waited = time.monotonic() - began
            wanted = first + 3 * chance.randint(1, 5)
            self.wait(lambda: step_of(self.save) >= wanted, f"step {wanted}")
            if moment == "save":
                self.wait(lambda: is_saving(self.save), "a checkpoint under way")
            else:
                time.sleep(chance.uniform(0.0, 0.3))
        workers = self.workers()
        workers[chance.choice(sorted(workers))].send_signal(FAULTS[fault])
        self.struck |= {worker.pid for worker in workers.values()}
        return waited

    def finish(self, limit_s: float = 1800) -> int:
        """Its exit status."""
        try:
            return self.process.wait(limit_s)
        finally:
            self.end()

    def end(self) -> None:
        """Leave nothing behind, stopped processes neither."""
        with suppress(psutil.Error):
            job = psutil.Process(self.process.pid)
            for member in (*job.children(recursive=True), job):
                member.kill()
        self.process.wait()


def start(save: Path, words: list[str]) -> Job:
    """Start it; what it says goes to a file beside its folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with save.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(
            words, cwd=ROOT, env=environment, start_new_session=True, stdout=log, stderr=log
        )
    return Job(save=save, process=process)


def why_not() -> str | None:
    """What is missing for these tests, None if nothing is."""
    if "LAUNCHER_PYTHON" in os.environ or find_spec("nvidia_resiliency_ext") is not None:
        return None
    return "no nvidia-resiliency-ext here: pip install -e '.[resiliency]', or set LAUNCHER_PYTHON"
