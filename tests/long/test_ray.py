"""`--executor ray` on two real nodes of Ray, both on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from megatron_speech.interleaving.plan import plan
from tests.interleaving.jobs import files_of, plan_config

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
TASKS = 6


@contextmanager
def node(*flags: str, log: Path):
    """A node of one CPU; it ends with the block, by force."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1"]
    memory = "--object-store-memory=80000000"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, memory, *flags],
            env={**os.environ, **SETTINGS},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait(due, what: str, limit_s: float = 300) -> None:
    deadline = time.monotonic() + limit_s
    while not due():
        assert time.monotonic() < deadline, f"{what}: not within {limit_s:.0f} s"
        time.sleep(0.1)


def nodes_alive(address: str) -> int:
    script = "import ray, sys; ray.init(sys.argv[1], logging_level='ERROR'); "
    script += "print('ALIVE', sum(each['Alive'] for each in ray.nodes()))"
    said = subprocess.run(
        [sys.executable, "-c", script, address],
        env={**os.environ, **SETTINGS},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return int(said.split("ALIVE")[1]) if "ALIVE" in said else 0


def plan_on_ray(world: Path, output: Path, address: str, log: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "tools" / "build_dataset.py"), "plan"]
    command += ["--input", str(world / "corpus.parquet"), "--vocab", str(world / "vocab")]
    command += ["--tasks", str(TASKS), "--requests-per-shard", "20", "--output", str(output)]
    command += ["--executor", "ray", "--mem-per-cpu-gb", "0", "--workers", "2"]
    command += ["--logs", str(output.parent / "logs")]
    with log.open("wb") as stream:
        return subprocess.Popen(
            command,
            env={**os.environ, **SETTINGS, "RAY_ADDRESS": address},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


def test_a_plan_made_on_two_nodes_is_the_plan_made_here_also_when_one_of_them_dies(world, tmp_path):
    plan(plan_config(world, tmp_path / "here", tasks=TASKS))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, output, log = f"127.0.0.1:{port}", tmp_path / "there", tmp_path / "plan.log"
    head = ("--head", f"--port={port}", "--include-dashboard=false")
    with (
        node(*head, log=tmp_path / "head.log"),
        node(f"--address={address}", log=tmp_path / "second.log") as second,
    ):
        wait(lambda: nodes_alive(address) == 2, "two nodes")
        job = plan_on_ray(world, output, address, log)
        done = tmp_path / "logs" / "plan" / "completions"
        wait(lambda: done.exists() and any(done.iterdir()), "the first task")
        end(second)
        assert job.wait(600) == 0, log.read_text()
        assert files_of(output) == files_of(tmp_path / "here")
