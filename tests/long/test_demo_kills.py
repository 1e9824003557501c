"""The demo killed at random moments ends with the figures of an uninterrupted one."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from megatron_speech.io.files import read_json

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20


def demo(output: Path) -> subprocess.Popen:
    command = [sys.executable, "examples/quickstart/demo.py", "--size", "smoke"]
    return subprocess.Popen([*command, "--output", str(output)], cwd=ROOT)


def figures(output: Path) -> dict[str, Any]:
    """All figures of the report but times, the machine, and the folder it lies in."""
    report = read_json(output / "report.json")
    for name in ("seconds", "machine"):
        del report[name]
    return dict(_flat(report, "", str(output)))


def _flat(value: Any, path: str, folder: str):
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from _flat(item, f"{path}/{name}", folder)
    else:
        yield path, value.replace(folder, "") if isinstance(value, str) else value


@pytest.mark.parametrize("seed", [0])
def test_kills_change_no_figure(tmp_path, seed):
    started = time.monotonic()
    assert demo(tmp_path / "whole").wait() == 0
    whole_s = time.monotonic() - started
    chance = random.Random(seed)
    kills = 0
    for _ in range(KILLS):
        process = demo(tmp_path / "killed")
        try:
            process.wait(timeout=chance.uniform(0.05, 0.4) * whole_s)
            break  # it finished between two kills
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL if kills % 3 else signal.SIGINT)
            process.wait()
            kills += 1
    assert kills >= 2, "the demo was too quick to be killed"
    assert demo(tmp_path / "killed").wait() == 0
    expected = figures(tmp_path / "whole")
    assert len(expected) > 100
    assert figures(tmp_path / "killed") == expected
