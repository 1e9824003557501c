"""Whole trainings of tokenizer-debug by one and by two processes read equally well.

SPEECH=runs/demo/speech pytest --override-ini addopts= tests/long/test_speech_training_processes.py

STEPS, 3,000 unless set, shortens it. The runs are kept in SPEECH/../processes and continued.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megatron_speech.audio import read_audio
from megatron_speech.data.manifest import read_manifest
from megatron_speech.speech_tokenizer import SpeechTokenizer
from megatron_speech.speech_tokenizer.transcription import word_errors
from megatron_speech.training.reporting import read_metrics

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
SPEECH = Path(os.environ.get("SPEECH", ROOT / "runs/demo/speech"))
STEPS = int(os.environ.get("STEPS", "3000"))


def train(processes: int) -> Path:
    """The folder of a finished training by that many processes."""
    run = SPEECH.parent / "processes" / f"{STEPS}-steps-{processes}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    files = ["--manifest", str(SPEECH / "train/manifest.parquet")]
    files += ["--valid-manifest", str(SPEECH / "sentences/manifest.parquet"), "--save", str(run)]
    steps = ["--train-iters", str(STEPS), "--quantize-start-step", str(STEPS // 4)]
    command = ["tools/train_speech_tokenizer.py", "tokenizer-debug", *files, *steps]
    command += ["--micro-batch-size", "8", "--eval-interval", "0"]
    subprocess.run([*torchrun, "--nproc-per-node", str(processes), *command], cwd=ROOT, check=True)
    return run


def test_one_and_two_processes_end_at_the_same_error_rate_and_usage():
    assert SPEECH.exists(), "run `make demo`, or set SPEECH to a demo's folder of speech"
    runs = [train(processes) for processes in (1, 2)]
    rows = read_manifest(SPEECH / "sentences/manifest.parquet")
    audio, texts = [read_audio(row.path) for row in rows], [row.text for row in rows]
    counts = []
    for run in runs:
        tokenizer = SpeechTokenizer.from_pretrained(run / "export")
        counts.append(word_errors(texts, tokenizer.decode_text(tokenizer.encode(audio))))
    one, two = np.array(counts, dtype=float)
    random = np.random.default_rng(0)
    differences = []
    for _ in range(2000):  # the same utterances for both
        chosen = random.integers(0, len(one), len(one))
        rates = [part[chosen, 0].sum() / part[chosen, 1].sum() for part in (one, two)]
        differences.append(rates[1] - rates[0])
    low, high = np.percentile(differences, [0.5, 99.5])
    wers = [part[:, 0].sum() / part[:, 1].sum() for part in (one, two)]
    usage = [read_metrics(run, "valid")[-1]["codebook usage sentences"] for run in runs]
    print(f"WER {wers}, difference {low:+.4f} to {high:+.4f} (99%); usage {usage}")
    assert low <= 0 <= high
    assert usage[0] == pytest.approx(usage[1], abs=0.05)
