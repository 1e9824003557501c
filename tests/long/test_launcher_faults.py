"""Jobs under ft_launcher whose processes are killed with -9 and stopped go on by themselves.

`make test-launcher` runs the quick form. The campaign writes its result as it goes; FAULTS_FOLDER
keeps its runs, and KILLS and HANGS are its size.
"""

import os
import random
import signal
import time
from pathlib import Path
from statistics import mean

import psutil
import pytest

from megatron_speech.io.files import write_json
from tests.long.launched import (
    HANG_TIMEOUT_S,
    START_TIMEOUT_S,
    command,
    start,
    why_not,
)
from tests.tools.pretraining import assert_same_runs, step_of, write_data

if missing := why_not():
    pytest.skip(missing, allow_module_level=True)
pytestmark = pytest.mark.long
KILLS, HANGS = int(os.environ.get("KILLS", "20")), int(os.environ.get("HANGS", "5"))
RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "launcher_faults.json"
AGAIN_S = 180
"""A hang is noticed and the job trains again within its timeout and this, however busy the CPUs."""


def run_whole(folder: Path, data: list[str], steps: int) -> float:
    """Seconds of a run that nothing disturbs."""
    began = time.monotonic()
    assert start(folder / "whole", command(folder / "whole", data, steps)).finish() == 0
    return time.monotonic() - began


def test_a_kill_and_a_hang_change_no_bit(tmp_path):
    data, steps, chance = write_data(tmp_path), 90, random.Random(0)
    run_whole(tmp_path, data, steps)
    job = start(tmp_path / "struck", command(tmp_path / "struck", data, steps))
    try:
        job.strike("kill", "step", chance)
        assert job.strike("hang", "step", chance) < AGAIN_S
    finally:
        status = job.finish(HANG_TIMEOUT_S + AGAIN_S + 120)
    assert status == 0
    assert assert_same_runs(tmp_path / "whole", tmp_path / "struck") > 50


def test_a_used_up_budget_ends_with_a_clear_last_word(tmp_path):
    """Data that are gone: no start brings a checkpoint."""
    save = tmp_path / "run"
    words = command(save, ["--vocab", str(tmp_path), "--data-path", "nowhere"], 9, "--restarts=1")
    assert start(save, words).finish(600) == 1
    said = save.with_suffix(".log").read_text()
    assert said.count("error: ") >= 2
    assert said.splitlines()[-1].startswith("gave up: processes of this node ended 2 times")
    assert "(--restarts 1)" in said.splitlines()[-1]
    assert "NVML" not in said


def test_a_scheduler_s_signal_saves_and_ends_well(tmp_path):
    """As Slurm sends it, to every process of the job; the launcher ignores it, as in common.sh."""
    save = tmp_path / "run"
    words = command(save, write_data(tmp_path), 5000)
    job = start(save, ["bash", "-c", 'trap "" USR1 TERM; exec "$@"', "-", *words])
    try:
        job.wait(lambda: step_of(save) > 2, "a checkpoint")
        launcher = psutil.Process(job.process.pid)
        for member in (launcher, *launcher.children(recursive=True)):
            member.send_signal(signal.SIGUSR1)
    finally:
        status = job.finish(300)
    assert status == 0
    assert (
        f"stopped at step {step_of(save)}: SIGUSR1 received" in save.with_suffix(".log").read_text()
    )


def test_twenty_kills_and_five_hangs_change_no_bit(tmp_path):
    folder = Path(os.environ.get("FAULTS_FOLDER", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    data, chance = write_data(folder), random.Random(19)
    faults = ["kill"] * KILLS + ["hang"] * HANGS
    chance.shuffle(faults)
    steps = 60 + 24 * len(faults)
    whole_s = run_whole(folder, data, steps)
    save, began, done = folder / "struck", time.monotonic(), []
    job = start(save, command(save, data, steps, "--restarts=6"))
    try:
        for fault in faults:
            moment = chance.choice(["start", "step", "step", "save"]) if done else "step"
            waited = job.strike(fault, moment, chance)
            if done and waited is not None:
                done[-1]["seconds to the next checkpoint"] = round(waited, 1)
                assert waited < START_TIMEOUT_S + AGAIN_S
            done.append({"fault": fault, "while it": moment, "step": step_of(save)})
            _write(done, steps, whole_s, time.monotonic() - began)
        assert job.finish() == 0
    finally:
        job.end()
    tensors = assert_same_runs(folder / "whole", save)
    _write(done, steps, whole_s, time.monotonic() - began, tensors)


def _write(
    done: list[dict], steps: int, whole_s: float, took_s: float, tensors: int | None = None
) -> None:
    """What is known by now; without `tensors` the campaign is under way, or was cut off."""
    lost = [f["seconds to the next checkpoint"] for f in done if len(f) == 4]
    result = {
        "processes": 2,
        "steps": steps,
        "hang timeout, start timeout (s)": [HANG_TIMEOUT_S, START_TIMEOUT_S],
        "kills": sum(f["fault"] == "kill" for f in done),
        "hangs": sum(f["fault"] == "hang" for f in done),
        "undisturbed (s)": round(whole_s, 1),
        "disturbed (s)": round(took_s, 1),
        "lost a fault (s)": round((took_s - whole_s) / len(done), 1) if tensors else None,
        "seconds to the next checkpoint": lost
        and {"mean": round(mean(lost), 1), "most": max(lost)},
        "tensors equal": tensors,
        "faults": done,
    }
    write_json(RESULT, result)
