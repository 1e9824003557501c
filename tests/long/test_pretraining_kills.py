"""Pre-trainings killed with -9 twenty times equal undisturbed ones, bit by bit.

At random moments: while they start, in steps, and while a checkpoint is written. Stopped, the
campaign continues: set KILLS_FOLDER to a folder that stays. Each way writes its line into
benchmarks/results/pretraining_kills.json.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from megatron_speech.io.files import read_json, write_json
from tests.tools.pretraining import (
    TINY,
    assert_same_runs,
    kill_when,
    random_moment,
    step_of,
    write_data,
)

pytestmark = pytest.mark.long

KILLS, STEPS = 20, 400
RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "pretraining_kills.json"
WAYS = {
    "whole": [],
    "whole, in the background": ["--async-save"],
    "sharded": ["--use-distributed-optimizer"],
    "sharded, in the background": ["--use-distributed-optimizer", "--async-save"],
}


@pytest.mark.parametrize("way", WAYS)
def test_twenty_kills_change_no_bit(way, tmp_path):
    folder = Path(os.environ.get("KILLS_FOLDER", tmp_path)) / way.replace(", ", "-")
    if not (folder / "vocab").exists():
        write_data(folder)
    whole, killed, ledger = folder / "whole", folder / "killed", folder / "kills.json"
    data = ["--vocab", str(folder / "vocab"), "--valid-data-path", str(folder / "cut")]
    data += ["--data-path", "0.6", str(folder / "cut"), "0.4", str(folder / "whole_documents")]

    def command(save: Path) -> list[str]:
        iters = ["--train-iters", str(STEPS), "--save-interval", "3", "--lr-warmup-iters", "2"]
        return [*TINY, *iters, *data, *WAYS[way], "--save", str(save)]

    if step_of(whole) < STEPS:
        assert not kill_when(command(whole), lambda: False, timeout_s=3600)
    done = json.loads(ledger.read_text()) if ledger.exists() else []
    while len(done) < KILLS:
        chance = random.Random(f"{way} {len(done)}")
        kind, due = random_moment(chance, killed)
        assert kill_when(command(killed), due, timeout_s=3600), f"finished after {done}"
        done.append([kind, step_of(killed)])
        write_json(ledger, done)
    assert not kill_when(command(killed), lambda: False, timeout_s=3600)
    tensors = assert_same_runs(whole, killed)
    results = read_json(RESULT) if RESULT.exists() else {}
    results[way] = {
        "steps": STEPS,
        "kills": dict(Counter(kind for kind, _ in done)),
        "checkpoints found": [step for _, step in done],
        "tensors equal": tensors,
    }
    write_json(RESULT, results)


def test_a_signal_to_a_job_under_torchrun_saves(tmp_path):
    """As docs/training.md has it for Slurm: torchrun ignores the signal, the trainers take it."""
    save, data = tmp_path / "run", write_data(tmp_path)
    flags = ["--train-iters", "5000", "--save-interval", "2", "--lr-warmup-iters", "2"]
    train = ["tools/pretrain.py", *TINY, *flags, *data, "--save", str(save)]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    launch = [*torchrun, "--standalone", "--nproc-per-node", "2", *train]
    shell = ["bash", "-c", 'trap "" USR1; exec "$@"', "-", *launch]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        shell, cwd=root, env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    while step_of(save) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    job = psutil.Process(process.pid)
    for member in (job, *job.children(recursive=True)):  # Slurm signals every process of a step
        member.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0
    assert f"stopped at step {step_of(save)}: SIGUSR1 received; saved in {save}" in output
