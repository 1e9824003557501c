"""Benchmarks start as their documentation says: from the repository's root, as scripts."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    path.name
    for path in (ROOT / "benchmarks").glob("*.py")
    if "\nfrom tools " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("script", [*SCRIPTS, "whisper_tokenizer.py"])
def test_benchmarks_that_call_tools_find_them(script, tmp_path):
    command = [sys.executable, f"benchmarks/{script}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--output" in done.stdout
    assert len(SCRIPTS) >= 2
