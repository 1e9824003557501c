"""Memory of bulk tokenization on Parquet of 300 MB, beside 20 MB.

Pages are what is held at once: the writers of data sets make them of 100 rows (`datasets`), or of
1,024 rows in one row group (pyarrow, if it is asked for nothing else).
"""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.speech_tokenizer.tiny_tokenizer import save_tiny_tokenizer

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
CLIP_S = 2.0
CODE = """
import sys
from tools import tokenize_speech

print(tokenize_speech.main(sys.argv[1:]))
status = dict(line.split(":") for line in open("/proc/self/status"))
print("peak", int(status["VmHWM"].split()[0]) // 1024)  # maxrss would begin at its parent's
"""


def write_parquet_of(path: Path, megabytes: int, row_group: int) -> None:
    """Noise, which cannot be compressed; a clip has 128 kB."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(megabytes * 8):
        stream = io.BytesIO()
        audio = 0.2 * random.standard_normal(round(CLIP_S * 32_000))
        soundfile.write(stream, audio, 32_000, format="WAV")
        rows.append({"bytes": stream.getvalue(), "path": f"{number}.wav"})
    table = pa.table({"audio": rows, "text": [f"text {n}" for n in range(len(rows))]})
    pq.write_table(table, path, row_group_size=row_group)
    assert path.stat().st_size > megabytes * 0.9e6


def peak_mb(parquet: Path, tokenizer: Path, output: Path) -> int:
    flags = ["--input", parquet, "--speech-tokenizer", tokenizer, "--output", output]
    command = [
        sys.executable,
        "-c",
        CODE,
        *map(str, flags),
        "--num-workers",
        "2",
        "--batch-seconds",
        "30",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(re.search(r"peak (\d+)", done.stdout)[1])


@pytest.mark.parametrize(("row_group", "most_more_mb"), [(100, 200.0), (1 << 30, 600.0)])
def test_memory_does_not_grow_with_the_file(tmp_path, row_group, most_more_mb):
    tokenizer = save_tiny_tokenizer(tmp_path / "tokenizer")
    peaks = {}
    for megabytes in (20, 300):
        path = tmp_path / f"{megabytes}.parquet"
        write_parquet_of(path, megabytes, row_group)
        peaks[megabytes] = peak_mb(path, tokenizer, tmp_path / f"codes{megabytes}")
    print(peaks)
    assert peaks[300] - peaks[20] <= most_more_mb
