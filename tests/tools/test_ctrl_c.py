"""Ctrl-C while a program imports what it needs, which takes seconds: one line and status 130."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted(
    path.relative_to(ROOT)
    for folder in ("tools", "examples")
    for path in (ROOT / folder).rglob("*.py")
    if "__main__" in path.read_text()
)
PRESS = """
import os, signal, sys

class Press:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FIRST and name not in LIGHT:
            signal.signal(signal.SIGINT, {handler})
            os.kill(os.getpid(), signal.SIGINT)

FIRST = {{"megatron_speech", "examples", "tyro"}}
LIGHT = {{"megatron_speech", "megatron_speech.jobs", "megatron_speech.jobs.starting"}}
sys.meta_path.insert(0, Press())
"""
"""Ctrl-C when the first module is looked for that is not as light as the handler itself."""


def stopped(tmp_path, program: Path, handler: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "sitecustomize.py").write_text(PRESS.format(handler=handler))
    return subprocess.run(
        [sys.executable, ROOT / program],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_one_line(tmp_path, program):
    done = stopped(tmp_path, program, "signal.getsignal(signal.SIGINT)")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted before it began\n"


def test_without_the_handler_it_is_a_traceback(tmp_path):
    done = stopped(tmp_path, PROGRAMS[0], "signal.default_int_handler")
    assert "KeyboardInterrupt" in done.stderr


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_nothing_heavy_is_imported_before(program):
    """Else the seconds in which Ctrl-C is a traceback come back with the next import."""
    tree = ast.parse((ROOT / program).read_text())
    imported = [
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert imported[-1] == "megatron_speech.jobs.starting"
    assert set(imported[:-1]) <= {"sys", "pathlib"}  # to find the package
