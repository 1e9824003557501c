"""A kill at every file operation of a tool costs nothing but time (all tools: tests/long)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def campaign(job: str, folder: Path, *options: str) -> dict:
    """Counts of a campaign, made in a fresh process, which has no threads when it forks."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.enumerated_kills", job, folder, *options],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("job", "kills"),
    [("preprocess", 40), ("assemble", 30), ("stages of the demo", 20)],
)
def test_every_kill_is_survived(job, kills, tmp_path):
    counts = campaign(job, tmp_path, "quick")
    assert counts["faults"] == []
    assert counts["kills"] == sum(counts["by_operation"].values()) >= kills


def test_a_finished_dataset_survives_the_same_command(tmp_path):
    counts = campaign("merge", tmp_path, "quick", "again")
    assert counts["faults"] == []
    assert 0 < counts["looked_finished"] < counts["kills"]


def test_a_tool_that_loses_something_is_caught(tmp_path):
    """The campaign itself: markers that outlive their files, and files without a marker."""
    counts = campaign("careless", tmp_path)
    assert any("looks finished, but" in fault for fault in counts["faults"])
    assert any("then" in fault and "differs" in fault for fault in counts["faults"])
