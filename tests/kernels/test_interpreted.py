"""The fused kernels, step by step in Triton's interpreter: no GPU needed."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-rP", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/kernels/interpreted.py"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print("\n".join(line for line in done.stdout.splitlines() if " contested, " in line))
