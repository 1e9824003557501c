"""Every tool that writes, killed at every file operation: on a new output, and on a finished one.

Writes its counts into benchmarks/results/enumerated_kills.json.
"""

from pathlib import Path

import pytest

from megatron_speech.io.files import read_json, write_json
from tests.kill_jobs import JOBS
from tests.test_kills import campaign

pytestmark = pytest.mark.long

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "enumerated_kills.json"
BEGUN = {"a new output": (), "a finished output": ("again",)}


@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("job", sorted(JOBS.keys() - {"careless"}))
def test_every_kill_is_survived(job, begun, tmp_path):
    counts = campaign(job, tmp_path, *BEGUN[begun])
    results = read_json(RESULT) if RESULT.exists() else {}
    results.setdefault(job, {})[begun] = counts
    write_json(RESULT, dict(sorted(results.items())))
    assert counts["faults"] == []
    assert counts["kills"] > 0 or begun == "a finished output"  # then there may be nothing to do
