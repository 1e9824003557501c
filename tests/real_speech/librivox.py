"""Five clips of a LibriVox reading, from Debian's package of pocketsphinx's test data."""

import shutil
import subprocess
from pathlib import Path

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


def _fetch(scratch: Path) -> Path:
    if shutil.which("apt-get") is None:
        pytest.fail(_HINT)
    command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", _PACKAGE]
    done = subprocess.run(command, cwd=scratch, capture_output=True, timeout=60, check=False)
    found = list(scratch.glob("*.deb"))
    if done.returncode or not found:
        pytest.fail(f"{_HINT}; fetching it failed: {done.stderr[-200:].decode()}")
    subprocess.run(["dpkg-deb", "-x", str(found[0]), str(scratch)], check=True)
    return scratch
