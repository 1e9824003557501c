"""Jobs in a process of their own that is killed, and killed again, until they are done."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.interleaving.jobs import run_jobs

ROOT = Path(__file__).resolve().parents[2]


def files_below(folder: Path) -> int:
    """Whole and half-written files, settings not counted."""
    return sum(1 for path in folder.rglob("*") if path.is_file() and path.name != "settings.json")


def kill_and_continue(world: Path, work: Path, kills: int, workers: int, seed: int) -> int:
    """Run the three jobs with kill -9 at random files; returns how many kills hit.

    Each run is killed, workers and all, when it has made some more files than it found.
    """
    rng, hits = random.Random(seed), 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.interleaving.kills", str(world), str(work), str(workers)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        enough = files_below(work) + rng.randint(0, 3)
        while process.poll() is None and (hits == kills or files_below(work) < enough):
            time.sleep(0.001)
        if process.poll() is not None:
            assert process.returncode == 0
            return hits
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        hits += 1


if __name__ == "__main__":
    run_jobs(Path(sys.argv[1]), Path(sys.argv[2]), workers=int(sys.argv[3]), tasks=6)
