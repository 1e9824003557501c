"""Five clips of a LibriVox reading, from Debian's package of pocketsphinx's test data."""

import shutil
import subprocess
from pathlib import Path

import pytest

_PACKAGE = "pocketsphinx-testdata"
_FOLDER = "usr/share/pocketsphinx/test/data/librivox"


def librivox_clips(scratch: Path) -> list[tuple[Path, str]]:
    """Recordings and what they say: installed, or fetched by apt into `scratch`."""
    folder = Path("/") / _FOLDER
    if not folder.is_dir():
        folder = _fetch(scratch) / _FOLDER
    lines = (folder / "transcription").read_text().splitlines()
    texts = dict(reversed(line.rstrip(")").split(" (")) for line in lines)
    clips = [(path, texts[path.stem]) for path in sorted(folder.glob("*.wav"))]
    assert len(clips) == 5
    return clips


def _fetch(scratch: Path) -> Path:
    if shutil.which("apt-get") is None:
        pytest.skip(f"{_PACKAGE} is a Debian package and this machine has no apt-get")
    command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", _PACKAGE]
    done = subprocess.run(command, cwd=scratch, capture_output=True, timeout=60, check=False)
    found = list(scratch.glob("*.deb"))
    if done.returncode or not found:
        pytest.skip(f"{_PACKAGE} is not installed and could not be fetched: {done.stderr[-200:]!r}")
    subprocess.run(["dpkg-deb", "-x", str(found[0]), str(scratch)], check=True)
    return scratch
