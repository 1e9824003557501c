"""Tests in Triton's interpreter, chosen when triton is imported: in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_interpreted(file: str) -> None:
    """Run a file of this folder, which must pass, and print what it says of contested vectors."""
    command = [sys.executable, "-m", "pytest", "-q", "-rP", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-p", "tests.kernels.sound_interpreter", f"tests/kernels/{file}"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print("\n".join(line for line in done.stdout.splitlines() if " contested, " in line))
