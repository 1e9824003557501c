"""A disk that is full at one file: what is written to it goes to /dev/full, by the real writer."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_speech import cli
from megatron_speech.io import files


def expect_no_space(path: Path, job: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Run `job`, which must fail at `path` in one line, leave nothing there and exit with 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = files.temporary_beside(path)
    for fails in (_raises, expect_one_line):
        temporary.symlink_to("/dev/full")
        fails(job, capsys)
        assert not path.exists()
        assert not temporary.is_symlink()


def _raises(job: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="No space left") as raised:
        job()
    assert raised.value.errno == errno.ENOSPC


def expect_one_line(job: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Run `job`, which must say on one line that the disk is full, and exit with 2."""
    with pytest.raises(SystemExit, match="2"):
        cli.run(job)
    said = capsys.readouterr().err
    assert said.count("error: no disk space left while writing") == 1
    assert "Traceback" not in said
