"""Runs documented blocks as written, in order, in one folder that stands for the repository."""

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT, Block


def prepare(folder: Path) -> None:
    """Make the folder look like the repository, without its `runs`."""
    for path in ROOT.iterdir():
        if path.name not in ("runs", ".git") and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)


def run(blocks: list[Block], folder: Path, timeout_s: float | None = None) -> None:
    """Run each block; python blocks of a page see what the page's earlier ones defined."""
    before: dict[Path, str] = {}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for block in blocks:
        if block.language == "python":
            before[block.page] = before.get(block.page, "") + block.text
            command = [sys.executable, "-c", before[block.page]]
        else:
            command = ["bash", "-euo", "pipefail", "-c", block.text]
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        said = done.stdout[-3000:] + done.stderr[-3000:]
        assert done.returncode == 0, f"{block.name} exits with {done.returncode}:\n{said}"
