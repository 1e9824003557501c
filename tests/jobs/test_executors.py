"""Jobs handed to Slurm: a stand-in for sbatch runs the very scripts it is given, at once."""

import os
import sys
from pathlib import Path

import pytest

from megatron_speech.errors import ConfigError, InUseError
from megatron_speech.interleaving.plan import plan
from megatron_speech.jobs.claims import exclusive
from megatron_speech.jobs.executors import ClusterConfig, Place, Submitted, _Step
from tests.interleaving.jobs import files_of, plan_config
from tools import build_dataset

ROOT = Path(__file__).resolve().parents[2]
SBATCH = """#!{python}
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
with open("{folder}/submitted", "a") as log:
    log.write(" ".join(sys.argv[1:-1]) + "\\n" + script)
first, last = map(int, re.search(r"--array=(\\d+)-(\\d+)", script).groups())
if "merge_stats" not in script:
    for rank in range(first, last + 1):
        environment = dict(
            os.environ,
            SLURM_ARRAY_TASK_ID=str(rank),
            RUN_OFFSET="0",
            SLURM_NODELIST="here",
            SLURM_CPUS_PER_TASK="1",
            SLURM_MEM_PER_CPU="4096",
        )
        subprocess.run(["bash", sys.argv[-1]], env=environment, check=True, stdout=sys.stderr)
print("Submitted batch job 17")
"""
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do if [[ "$1" == -n ]]; then shift; fi; shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "${@: -1}"
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    folder = tmp_path / "slurm"
    folder.mkdir()
    scripts = {
        "sbatch": SBATCH.format(python=sys.executable, folder=folder),
        "srun": SRUN,
        "scontrol": SCONTROL,
    }
    for name, script in scripts.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    return folder


def test_a_plan_made_by_slurm_is_the_plan_made_here(world, slurm, tmp_path, capsys):
    plan(plan_config(world, tmp_path / "here", tasks=2))
    flags = ["--input", str(world / "corpus.parquet"), "--vocab", str(world / "vocab")]
    flags += ["--output", str(tmp_path / "there"), "--tasks", "2", "--requests-per-shard", "20"]
    flags += ["--executor", "slurm", "--partition", "cpu", "--after", "11", "--workers", "9"]
    flags += ["--sbatch-args", "account=speech", "--logs", str(tmp_path / "logs")]
    assert build_dataset.main(["plan", *flags]) == {"job_id": "17"}
    assert "the last Slurm job is 17" in capsys.readouterr().out
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")
    submitted = (slurm / "submitted").read_text()
    assert "#SBATCH --array=0-1%9" in submitted
    assert submitted.count("#SBATCH --account=speech") == 4, "tasks, join and their statistics"
    assert "--dependency=afterok:11" in submitted
    assert "--dependency=afterok:17" in submitted


def double(number):
    return 2 * number


def test_places(tmp_path, monkeypatch):
    here = Place(ClusterConfig(), tmp_path, tmp_path, lambda: None)
    assert here.run(double, [1, 2, 3], workers=1, description="double") == [2, 4, 6]
    with pytest.raises(ConfigError, match="needs --partition"):
        ClusterConfig(executor="slurm")
    with pytest.raises(ConfigError, match="--after is a Slurm job"):
        ClusterConfig(after="11")
    with pytest.raises(ConfigError, match="are name=value"):
        ClusterConfig(executor="slurm", partition="cpu", sbatch_args=("--account",))
    there = ClusterConfig(executor="slurm", partition="cpu")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="sbatch is not on the PATH"):
        Place(there, tmp_path / "a", tmp_path, lambda: None).run(
            double, [1], workers=1, description="d"
        )
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="--executor ray needs ray"):
        Place(ClusterConfig(executor="ray"), tmp_path / "b", tmp_path, lambda: None).run(
            double, [1], workers=1, description="d"
        )
    monkeypatch.setitem(sys.modules, "datatrove.executor.slurm", None)
    with pytest.raises(ConfigError, match="needs datatrove"):
        Place(there, tmp_path / "c", tmp_path, lambda: None).run(
            double, [1], workers=1, description="d"
        )
    assert str(Submitted("plan", "5")) == "plan: submitted; the last Slurm job is 5"


def test_a_task_that_was_submitted_twice_is_done_by_one(tmp_path):
    done = []
    step = _Step(done.append, ["a", "b"], tmp_path / "plan")
    with exclusive(tmp_path / "plan" / "task 0"):
        with pytest.raises(InUseError, match="task 0 is in use by process"):
            step(None, rank=0, world_size=2)
        step(None, rank=1, world_size=2)
    step(None, rank=0, world_size=2)
    assert done == ["b", "a"]
    assert list(tmp_path.iterdir()) == []
