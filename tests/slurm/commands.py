"""What tests ask of a Slurm cluster."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_WAITING = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED"}


@dataclass(frozen=True)
class Slurm:
    """Commands against the cluster of the tests."""

    environment: Mapping[str, str]

    def run(self, *command: str, **environment: str) -> str:
        """What a command prints; it must succeed."""
        done = self._done(command, environment)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def try_only(self, script: Path, *options: str) -> str:
        """What Slurm says of a job it is asked to judge; it ends with 0 whatever that is."""
        done = self._done(("sbatch", "--test-only", *options, str(script)), {})
        return done.stdout + done.stderr

    def _done(self, command: Sequence[str], environment: Mapping[str, str]):
        environment = {**self.environment, **environment}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    def submit_all(self, *stages: str, **environment: str) -> dict[str, str]:
        """Submit stages in smoke size; the job of each by its name."""
        environment = {"SIZE": "smoke", **environment}
        printed = self.run("bash", "examples/submit_all.sh", *stages, **environment)
        words = [line.split() for line in printed.splitlines()]
        return {name: job for name, _, job, *_ in words}

    def states(self, job: str) -> list[str]:
        """State of a job, or of each task of an array."""
        return self.run("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T").split()

    def restarts(self, job: str) -> int:
        """How often a job went back to the queue."""
        shown = self.run("scontrol", "show", "job", job).split()
        return int(next(word for word in shown if word.startswith("Restarts="))[9:])

    def wait(self, job: str, timeout_s: float) -> list[str]:
        """Wait for a job's end; its states."""
        ended = partial(self.has_ended, job)
        wait_until(lambda: False, timeout_s, f"the end of job {job}", over=ended)
        return self.states(job)

    def has_ended(self, job: str) -> bool:
        """Whether nothing of a job waits or runs any more."""
        return not _WAITING & set(self.states(job))


def wait_until(
    due: Callable[[], bool],
    timeout_s: float,
    what: str,
    over: Callable[[], bool] = lambda: False,
) -> None:
    """Look many times a second, and every second whether it is `over` and can never be."""
    began = looked = time.monotonic()
    while not due():
        now = time.monotonic()
        assert now < began + timeout_s, f"{what}: not within {timeout_s:g} s"
        if now > looked + 1:
            looked = now
            if over():
                return
        time.sleep(0.03)
