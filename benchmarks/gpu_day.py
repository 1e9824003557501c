"""Everything that wants measuring on a GPU, in parts of less than nine minutes each.

    python benchmarks/gpu_day.py              all parts, correctness first (`make gpu-day`)
    python benchmarks/gpu_day.py 3            one of them (`make gpu-day-3`)

Each part runs tests and benchmarks of this repository one after another, writes
benchmarks/results/*.json as it goes, and ends with a table of what it promises; what fails or takes
too long stops nothing behind it. On an H100 or H200 with the packages of the extra [gpu]. The last
table is that of docs/gpu.md. At smoke size (`make gpu-day SIZE=smoke`) the same is rehearsed on a
CPU, into runs/benchmarks-smoke; its figures mean nothing.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import targets
import torch
from common import RESULTS, ROOT, SMOKE, write_record

from megatron_speech.io.files import write_text

PART_SECONDS = 530
VLLM = ROOT / ".venv-vllm" / "bin" / "python"


@dataclass(frozen=True)
class Step:
    """A command of this repository, without the interpreter."""

    name: str
    command: str
    rehearsal: str | None = None
    """The command at smoke size, where it is another."""

    @property
    def arguments(self) -> list[str]:
        words = shlex.split(self.command if not SMOKE or self.rehearsal is None else self.rehearsal)
        if words[0].startswith("tests/"):
            words = ["-m", "pytest", "-q", "-m", "", *PYTEST, *words]
        return words


PYTEST = ("-p", "no:cacheprovider")
KERNELS = "tests/gpu/test_kernels_gpu.py"
PARTS: dict[int, tuple[str, list[Step]]] = {
    1: (
        "correctness",
        [
            Step(
                "kernels",
                KERNELS,
                f"{KERNELS} -p tests.kernels.sound_interpreter -k 'not memory'",
            ),
            Step(
                "language models",
                "tests/gpu/test_megatron_gpu.py",
                # of the others without Transformer Engine
                "tests/gpu/test_megatron_gpu.py -k 'cpu or resumed or parallel0 or parallel1'",
            ),
        ],
    ),
    2: (
        "look-up and codebook statistics",
        [
            Step("look-up", "kernels/vq_lookup/benchmark.py"),
            Step("statistics", "kernels/codebook_update/benchmark.py"),
        ],
    ),
    3: ("training steps", [Step("steps", "benchmarks/training_gpu.py steps")]),
    4: ("FP8", [Step("FP8", "benchmarks/training_gpu.py fp8")]),
    5: (
        "loss curves, memory of plans",
        [
            Step(
                "memory of plans",
                "tests/gpu/test_memory_gpu.py",
                "tests/gpu/test_memory_gpu.py --collect-only",
            ),
            Step("loss curves", "benchmarks/training_gpu.py curves"),
        ],
    ),
    6: (
        "speech",
        [
            Step(
                "bulk tokenization",
                "benchmarks/bulk_tokenization.py --gpu --windows 1024",
                "benchmarks/bulk_tokenization.py --gpu --windows 1 --rounds 1",
            ),
            Step(
                "text to codes",
                "benchmarks/generation.py --gpu",
                "benchmarks/generation.py",
            ),
            *(
                [Step("text to codes, vLLM", f"benchmarks/generation.py --gpu --vllm {VLLM}")]
                if VLLM.exists() and not SMOKE
                else []
            ),
            Step(
                "codes to sound",
                "benchmarks/decoding.py --gpu",
                "benchmarks/decoding.py",
            ),
        ],
    ),
    7: (
        "correctness of speech and of the image",
        [
            Step(
                "speech",
                "tests/gpu/test_speech_gpu.py",
                "tests/gpu/test_speech_gpu.py -k 'codes or decoded'",
            ),
            Step("image", "tests/gpu_image", "tests/gpu_image --collect-only"),
        ],
    ),
}


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it started ends with it
    known = {str(part): part for part in PARTS}
    if not known.keys() >= set(sys.argv[1:]):
        raise SystemExit(f"name parts of {', '.join(known)}, or none for all")
    if not SMOKE and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here; make gpu-day SIZE=smoke rehearses without one")
    chosen = [known[word] for word in sys.argv[1:]] or list(PARTS)
    started = time.time()
    found = {part: run_part(part) for part in chosen}
    if len(chosen) > 1:
        print(f"\n{targets.table(RESULTS, tuple(chosen), started)}", flush=True)
    if not SMOKE:
        results = targets.HERE / "results"
        write_text(targets.PAGE, targets.page(targets.PAGE.read_text(encoding="utf-8"), results))
    failed = [f"{part}: {name}" for part, steps in found.items() for name in _failed(steps)]
    if failed:
        print("failed: " + ", ".join(failed), flush=True)
    return bool(failed)


def run_part(part: int) -> dict[str, Any]:
    """Run the steps of a part, each as long as the part has time; print its table."""
    title, steps = PARTS[part]
    found: dict[str, Any] = {}
    started, begun = time.monotonic(), time.time()
    for step in steps:
        print(f"\n=== {part}, {title}: {step.name} ===", flush=True)
        left = PART_SECONDS - (time.monotonic() - started)
        found[step.name] = run_step(step, left if not SMOKE else 10 * PART_SECONDS)
        write_record(f"gpu_day_{part}", "", found)
    took = time.monotonic() - started
    lines = [f"| {n} | {f['outcome']} | {f['seconds']:.0f} s |" for n, f in found.items()]
    print(f"\npart {part}, {title}: {took:.0f} s\n| step | outcome | took |\n|---|---|---|")
    print("\n".join(lines) + "\n\n" + targets.table(RESULTS, (part,), begun), flush=True)
    return found


def run_step(step: Step, seconds: float) -> dict[str, Any]:
    """Run a command; its outcome, and of tests how many passed and what they recorded."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        is_test = "pytest" in step.arguments
        command = [*step.arguments, *([f"--junitxml={report}"] if is_test else [])]
        outcome = _outcome([sys.executable, *command], seconds)
        found = {"outcome": outcome, "seconds": time.monotonic() - started}
        return found | (_tests(report) if is_test else {})


def _outcome(command: list[str], seconds: float) -> str:
    """Run it in a session of its own, so that nothing of it outlives its time on the GPU."""
    interpreted = {"TRITON_INTERPRET": "1"} if "tests.kernels.sound_interpreter" in command else {}
    # on a busy machine threads that spin for each other made half a minute of a small step
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")} if SMOKE else {}
    environment = {**os.environ, **threads, **interpreted}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        code = process.wait(seconds)
        return "passed" if code == 0 else f"failed (exit code {code})"
    except subprocess.TimeoutExpired:
        return f"not done in {seconds:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tests(report: Path) -> dict[str, Any]:
    """What pytest's report says; nothing where it was not written."""
    if not report.exists():
        return {"tests": {"passed": 0, "failed": 0}, "properties": {}}
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    properties: dict[str, list[Any]] = {}
    for each in suite.iter("property"):
        properties.setdefault(each.get("name", ""), []).append(json.loads(each.get("value", "")))
    passed = count["tests"] - failed - count["skipped"]
    return {"tests": {"passed": passed, "failed": failed}, "properties": properties}


def _failed(steps: dict[str, Any]) -> list[str]:
    return [name for name, found in steps.items() if found["outcome"] != "passed"]


if __name__ == "__main__":
    raise SystemExit(main())
