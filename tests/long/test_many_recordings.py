"""A bulk job plans with ten million recordings in the memory of a few hundred bytes each.

Prints seconds and memory: pytest -s --override-ini addopts= tests/long/test_many_recordings.py
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.long

RECORDINGS, ROWS = 10_000_000, 500_000
MOST_BYTES_EACH = 700

PLAN = """
import json, resource, sys
from pathlib import Path
from megatron_speech.data.recordings import find_recordings

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = find_recordings([Path(sys.argv[1])])
used = resource.getrusage(resource.RUSAGE_SELF)
last = found.listed[-2:]
print(json.dumps({
    "recordings": len(found.listed), "rejected": len(found.rejected), "last": last[1].id,
    "kept": found.listed.num_bytes, "most": 1024 * (used.ru_maxrss - before),
    "cpu_s": used.ru_utime + used.ru_stime,
}))
"""


def write_manifest(path: Path) -> None:
    """Some 33,000 hours of clips; of every two millions of rows two have one id."""
    with pq.ParquetWriter(path, schema()) as writer:
        for first in range(0, RECORDINGS, ROWS):
            numbers = range(first, first + ROWS)
            columns = {
                "id": [
                    f"again-{n // 2_000_000}"
                    if n % 1_000_000 == 7
                    else f"speaker-{n % 1000:04d}/{n:09d}"
                    for n in numbers
                ],
                "path": [f"audio/{n // 1000:05d}/clip-{n:09d}.flac" for n in numbers],
                "text": ["what was said in this clip of some twelve seconds"] * ROWS,
                "speaker": [f"s{n % 1000}" for n in numbers],
                "language": ["en"] * ROWS,
                "duration_s": np.full(ROWS, 12.0, np.float32),
            }
            writer.write_table(pa.table(columns, schema()))


def schema() -> pa.Schema:
    texts = [(name, pa.string()) for name in ("id", "path", "text", "speaker", "language")]
    return pa.schema([*texts, ("duration_s", pa.float32())])


def test_ten_million_recordings(tmp_path):
    write_manifest(tmp_path / "m.parquet")
    started = time.monotonic()
    command = [sys.executable, "-c", PLAN, str(tmp_path / "m.parquet")]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(run.stdout)
    print(f"{time.monotonic() - started:.0f} s: {found}")
    assert found["recordings"] == RECORDINGS - 5
    assert found["rejected"] == 5
    assert found["last"] == f"speaker-0999/{RECORDINGS - 1:09d}"
    assert found["most"] < MOST_BYTES_EACH * RECORDINGS
