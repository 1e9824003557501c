"""kill -9 at any moment, and 1, 2 or 4 workers, change no byte."""

from pathlib import Path

import pytest

from tests.interleaving.jobs import files_of, run_jobs
from tests.interleaving.kills import kill_and_continue


def finished(work: Path) -> dict[str, bytes]:
    """The files but for those a killed process left half-written, under names nobody reads."""
    return {name: data for name, data in files_of(work).items() if not name.endswith(".part")}


@pytest.mark.parametrize(("kills", "workers"), [(5, 2)])
def test_kills_leave_the_same_bytes(world, tmp_path, kills, workers):
    run_jobs(world, tmp_path / "whole", tasks=6)
    assert kill_and_continue(world, tmp_path / "killed", kills, workers, seed=0) == kills
    assert finished(tmp_path / "killed") == finished(tmp_path / "whole")


def test_four_workers_write_the_same_bytes(world, tmp_path):
    run_jobs(world, tmp_path / "one", tasks=6)
    run_jobs(world, tmp_path / "four", workers=4, tasks=6)
    assert files_of(tmp_path / "four") == files_of(tmp_path / "one")
