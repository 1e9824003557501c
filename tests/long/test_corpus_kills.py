"""Thirty kills of plan, generate and assemble, at 1, 2 and 4 workers."""

import pytest

from tests.interleaving.jobs import run_jobs
from tests.interleaving.kills import kill_and_continue
from tests.interleaving.test_job_kills import finished

pytestmark = pytest.mark.long


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_ten_kills_each(world, tmp_path, workers):
    run_jobs(world, tmp_path / "whole", tasks=6)
    hits = kill_and_continue(world, tmp_path / "killed", 10, workers, seed=workers)
    assert hits == 10
    assert finished(tmp_path / "killed") == finished(tmp_path / "whole")
