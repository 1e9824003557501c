"""What is promised of GPUs is judged by results alone, and no part of the day stops another."""

import importlib
import json
import os
import shlex
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
LOADED = ("targets", "gpu_day", "common")


@pytest.fixture
def load(monkeypatch):
    """Benchmarks as modules, as they find each other when they are run."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delenv("BENCHMARK_SIZE", raising=False)
    yield importlib.import_module
    for name in LOADED:
        sys.modules.pop(name, None)


def record(folder: Path, name: str, figures: dict) -> None:
    written = {"figures": figures, "device": "a GPU", "date": "2026-01-01", "commit": "abc1234"}
    (folder / f"{name}.json").write_text(json.dumps(written))


def verdicts(text: str) -> list[str]:
    return [line.split("|")[5].strip() for line in text.splitlines()[2:]]


def test_the_page_is_what_the_results_say(load):
    targets = load("targets")
    text = targets.PAGE.read_text(encoding="utf-8")
    assert text == targets.page(text, RESULTS), "run python benchmarks/targets.py"


def test_no_other_page_speaks_of_what_was_not_measured(load):
    """Apart from the log, which is history."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
    kept = {load("targets").PAGE, ROOT / "docs" / "log.md", ROOT / "CHANGELOG.md"}
    found = [page.name for page in pages if "not yet measured" in page.read_text(encoding="utf-8")]
    assert [page for page in found if page not in {path.name for path in kept}] == []


def test_nothing_is_met_without_a_result(load, tmp_path):
    targets = load("targets")
    found = verdicts(targets.table(tmp_path))
    assert found == [targets.OPEN] * len(targets.TARGETS)


def test_verdicts(load, tmp_path):
    targets = load("targets")
    record(tmp_path, "vq_lookup_cuda", {"tflops": 550.0, "peak_extra_mib": 64.1})
    record(tmp_path, "codebook_update_cuda", {"speedup": float("nan")})
    lines = targets.table(tmp_path, (2,)).splitlines()[2:]
    assert [line.split(" | ")[1:5] for line in lines if "met" in line or "missed" in line] == [
        ["exact look-up, bf16, N = 1M, K = 16,384, D = 1,280", "at least 550 TFLOP/s",
         "550 TFLOP/s", "met"],
        ["memory of the look-up beyond inputs and outputs", "at most 64 MiB", "64.1 MiB", "missed"],
        ["one-hot product over codebook statistics", "at least 10 x", "nan x", "missed"],
    ]  # fmt: skip


def test_results_of_another_day_are_not_this_one_s(load, tmp_path):
    targets = load("targets")
    record(tmp_path, "codebook_update_cuda", {"speedup": 12.0})
    assert "met" in verdicts(targets.table(tmp_path, (2,)))
    os.utime(tmp_path / "codebook_update_cuda.json", (1, 1))
    assert "met" not in verdicts(targets.table(tmp_path, (2,), since=time.time() - 60))


@pytest.mark.parametrize(
    ("step", "verdict"),
    [
        ({"outcome": "passed", "tests": {"passed": 3, "failed": 0}}, "met"),
        ({"outcome": "passed", "tests": {"passed": 0, "failed": 0}}, "missed"),
        ({"outcome": "failed (exit code 1)", "tests": {"passed": 3, "failed": 2}}, "missed"),
        ({"outcome": "failed (exit code 4)", "tests": {"passed": 0, "failed": 0}}, "missed"),
        ({"outcome": "not done in 530 s", "tests": {"passed": 0, "failed": 0}}, "missed"),
    ],
)
def test_tests_that_did_not_all_pass_miss(load, tmp_path, step, verdict):
    targets = load("targets")
    record(tmp_path, "gpu_day_1", {"kernels": step})
    assert verdicts(targets.table(tmp_path, (1,)))[0] == verdict


def test_memory_of_plans_is_judged_by_the_worst(load, tmp_path):
    found = {"properties": {"planned over measured": [1.02, 0.88, 1.0]}}
    record(tmp_path, "gpu_day_5", {"memory of plans": found})
    assert "| 12% | missed |" in load("targets").table(tmp_path, (5,))


def test_every_step_names_what_exists(load):
    day = load("gpu_day")
    targets = load("targets")
    assert {target.part for target in targets.TARGETS} <= set(day.PARTS)
    for _, steps in day.PARTS.values():
        for step in steps:
            for command in (step.command, step.rehearsal or step.command):
                assert (ROOT / shlex.split(command)[0]).exists(), command


def test_a_step_that_fails_or_hangs_stops_no_other(load, tmp_path, monkeypatch, capfd):
    day = load("gpu_day")
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', {!r}]).wait()".format(
        f"import pathlib, time; time.sleep(4); pathlib.Path({str(tmp_path / 'alive')!r}).touch()"
    )
    parts = {
        1: ("a", [day.Step("fails", "-c 'raise SystemExit(3)'"), day.Step("works", "-c pass")]),
        2: ("b", [day.Step("hangs", shlex.join(["-c", child])), day.Step("late", "-c pass")]),
        3: ("c", [day.Step("works", "-c pass")]),
    }
    monkeypatch.setattr(day, "PARTS", parts)
    monkeypatch.setattr(day, "PART_SECONDS", 2)
    monkeypatch.setattr(sys, "argv", ["gpu_day.py", "1", "2", "3"])
    written = {}
    monkeypatch.setattr(
        day, "write_record", lambda name, peer, found: written.update({name: found})
    )
    monkeypatch.setattr(day, "RESULTS", tmp_path)
    monkeypatch.setattr(day.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(day, "write_text", lambda path, text: None)
    assert day.main() == 1
    outcomes = {name: [s["outcome"] for s in found.values()] for name, found in written.items()}
    assert outcomes["gpu_day_1"] == ["failed (exit code 3)", "passed"]
    assert outcomes["gpu_day_2"][0] == "not done in 2 s"
    assert outcomes["gpu_day_3"] == ["passed"]
    said = capfd.readouterr().out
    assert "failed: 1: fails, 2: hangs" in said
    time.sleep(3)
    assert not (tmp_path / "alive").exists(), "what a step started outlived it"


def test_what_tests_record_is_kept(load, tmp_path):
    day = load("gpu_day")
    test = tmp_path / "test_two.py"
    test.write_text(
        "def test_one(record_property):\n    record_property('ratio', 1.5)\n"
        "def test_two(record_property):\n    record_property('ratio', 2)\n    assert False\n"
    )
    step = day.Step("tests", f"-m pytest -q -p no:cacheprovider {test}")
    found = day.run_step(step, 60)
    assert found["outcome"] == "failed (exit code 1)"
    assert found["tests"] == {"passed": 1, "failed": 1}
    assert found["properties"] == {"ratio": [1.5, 2]}


def test_a_machine_without_a_gpu_writes_no_results(load, monkeypatch):
    day = load("gpu_day")
    monkeypatch.setattr(day.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_day.py", "1"])
    with pytest.raises(SystemExit, match="torch sees no GPU"):
        day.main()


@pytest.mark.parametrize("words", [["8"], ["one"], ["1", "-x"]])
def test_parts_that_are_none_are_refused(load, monkeypatch, words):
    day = load("gpu_day")
    monkeypatch.setattr(sys, "argv", ["gpu_day.py", *words])
    with pytest.raises(SystemExit, match="name parts of 1, 2"):
        day.main()
