"""Memory of bulk tokenization on Parquet of 300 MB in one row group, beside 20 MB."""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from tests.speech_tokenizer.tiny_tokenizer import save_tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]
CLIP_S, MOST_MORE_MB = 2.0, 200.0
CODE = """
import resource, sys
from tools import tokenize_speech
print(tokenize_speech.main(sys.argv[1:]))
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def write_parquet_of(path: Path, megabytes: int) -> None:
    """Noise of one row group: it cannot be compressed, and a clip has 128 kB."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(megabytes * 8):
        stream = io.BytesIO()
        audio = 0.2 * random.standard_normal(round(CLIP_S * 32_000))
        soundfile.write(stream, audio, 32_000, format="WAV")
        rows.append({"bytes": stream.getvalue(), "path": f"{number}.wav"})
    table = pa.table({"audio": rows, "text": [f"text {n}" for n in range(len(rows))]})
    pq.write_table(table, path, row_group_size=1 << 30)
    assert path.stat().st_size > megabytes * 0.9e6


def peak_mb(parquet: Path, tokenizer: Path, output: Path) -> int:
    flags = ["--input", parquet, "--speech-tokenizer", tokenizer, "--output", output]
    command = [sys.executable, "-c", CODE, *map(str, flags), "--num-workers", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(re.search(r"peak (\d+)", done.stdout)[1])


def test_memory_does_not_grow_with_the_file(tmp_path):
    tokenizer = save_tiny_tokenizer(tmp_path / "tokenizer")
    peaks = {}
    for megabytes in (20, 300):
        path = tmp_path / f"{megabytes}.parquet"
        write_parquet_of(path, megabytes)
        peaks[megabytes] = peak_mb(path, tokenizer, tmp_path / f"codes{megabytes}")
    print(peaks)
    assert peaks[300] - peaks[20] <= MOST_MORE_MB
