"""Five clips of a LibriVox reading, from Debian's package of pocketsphinx's test data."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

_PACKAGE = "pocketsphinx-testdata"
_FOLDER = "usr/share/pocketsphinx/test/data/librivox"
_HINT = f"tests on real speech need Debian's {_PACKAGE}: apt-get install {_PACKAGE}"


def librivox_clips(scratch: Path) -> list[tuple[Path, str]]:
    """Recordings of 16 kHz and what they say: installed, or fetched by apt into `scratch`."""
    folder = Path("/") / _FOLDER
    if not folder.is_dir():
        folder = _fetch(scratch) / _FOLDER
    lines = (folder / "transcription").read_text().splitlines()
    texts = dict(_name_and_text(line) for line in lines)
    clips = [(path, texts[path.stem]) for path in sorted(folder.glob("*.wav"))]
    assert len(clips) == 5
    return clips


def _name_and_text(line: str) -> tuple[str, str]:
    """From `<s> what is said </s> (name)`."""
    text, _, name = line.strip().removesuffix(")").rpartition(" (")
    return name, text.removeprefix("<s> ").removesuffix(" </s>")


def _leave_out(why: str) -> NoReturn:
    """Where the package cannot be had the tests are left out, but never by CI."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


def _fetch(scratch: Path) -> Path:
    if shutil.which("apt-get") is None:
        _leave_out(_HINT)
    command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", _PACKAGE]
    done = subprocess.run(command, cwd=scratch, capture_output=True, timeout=60, check=False)
    found = list(scratch.glob("*.deb"))
    if done.returncode or not found:
        _leave_out(f"{_HINT}; fetching it failed: {done.stderr[-200:].decode()}")
    subprocess.run(["dpkg-deb", "-x", str(found[0]), str(scratch)], check=True)
    return scratch
