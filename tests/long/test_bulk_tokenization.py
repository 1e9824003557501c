"""Bulk tokenization killed twenty times, and hours of audio in one file.

    python -m pytest -q tests/long/test_bulk_tokenization.py \
        --override-ini addopts="-ra --strict-markers --import-mode=importlib"
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from megatron_speech.data.code_shards import read_code_shards
from megatron_speech.data.manifest import ManifestRow, write_manifest
from tests.forked import start
from tests.interleaving.jobs import files_of
from tests.speech_tokenizer.tiny_tokenizer import save_tiny_tokenizer
from tools import tokenize_speech

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20
WORKERS = 2
CLIPS = 600


def write_speech(folder: Path) -> Path:
    rows, source = [], np.random.default_rng(0)
    for number in range(CLIPS):
        path = folder / f"{number:03d}.wav"
        size = int(source.uniform(0.1, 4) * 16_000)
        waveform = 0.2 * source.standard_normal(size) * (number % 50 > 0)  # some are silent
        soundfile.write(path, waveform, 16_000)
        rows.append(ManifestRow(id=path.stem, path=path, text=f"text {number}"))
    write_manifest(folder / "manifest.parquet", rows)
    return folder / "manifest.parquet"


@pytest.mark.parametrize("seed", [0])
def test_kills_change_no_byte(tmp_path, seed):
    """Two workers; a random one is killed at a random moment of its work and started again."""
    manifest = write_speech(tmp_path)
    tokenizer = save_tiny_tokenizer(tmp_path / "tokenizer")
    common = ["--input", str(manifest), "--speech-tokenizer", str(tokenizer)]
    common += ["--shard-size", "8", "--batch-seconds", "30"]
    tokenize_speech.main([*common, "--output", str(tmp_path / "whole")])

    output, chance = tmp_path / "killed", random.Random(seed)

    def run(number: int) -> BaseProcess:
        worker = ["--task", str(number), "--tasks", str(WORKERS)]
        return start(tokenize_speech.main, [*common, "--output", str(output), *worker])

    def shards() -> int:
        return len(list(output.glob("*.parquet")))

    workers = [run(number) for number in range(WORKERS)]
    total, seen = -(-CLIPS // 8), []
    for kill in range(KILLS):
        wanted = min(1 + kill * (total - 4) // KILLS, total - 3)
        while shards() < wanted and any(worker.is_alive() for worker in workers):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.15))
        victim = chance.randrange(WORKERS)
        workers[victim].kill()
        workers[victim].join()
        assert workers[victim].exitcode == -signal.SIGKILL, "it had finished before it was killed"
        seen.append(shards())
        workers[victim] = run(victim)
    assert seen[-1] < total
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    whole, killed = files_of(tmp_path / "whole"), files_of(output)
    assert len(whole) > total
    assert killed.keys() == whole.keys()
    assert [name for name in whole if killed[name] != whole[name]] == []
    print(f"killed {KILLS} times with {seen} of {total} shards there")


def test_memory_does_not_grow_with_a_recording(tmp_path):
    """Three hours of two channels at 48 kHz: 4.1 GB as floats, 0.7 GB at 16 kHz."""
    tokenizer = save_tiny_tokenizer(tmp_path / "tokenizer", max_source_positions=500)
    peaks = {}
    for seconds in (1200, 3 * 3600):
        path = tmp_path / f"{seconds}.wav"
        minute = 0.2 * np.random.default_rng(0).standard_normal((48_000 * 60, 2))
        with soundfile.SoundFile(path, "w", 48_000, 2, "PCM_U8", format="WAV") as file:
            for _ in range(seconds // 60):
                file.write(minute)
        write_manifest(tmp_path / "m.parquet", [ManifestRow(id="x", path=path, text="")])
        output = tmp_path / f"codes{seconds}"
        arguments = ["--input", str(tmp_path / "m.parquet"), "--output", str(output)]
        arguments += ["--speech-tokenizer", str(tokenizer), "--batch-seconds", "30"]
        code = (
            "import sys; from tools import tokenize_speech; tokenize_speech.main(sys.argv[1:]);"
            "print(open('/proc/self/status').read())"  # ru_maxrss would count the parent's
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        found = re.search(r"VmHWM:\s*(\d+) kB", done.stdout)
        assert found is not None
        peaks[seconds] = int(found[1]) * 1024
        (record,) = read_code_shards(output)[1]
        assert len(record.codes) == seconds * 12.5
        path.unlink()
    print({seconds: f"{peak / 1e6:.0f} MB" for seconds, peak in peaks.items()})
    assert peaks[3 * 3600] - peaks[1200] < 100e6
