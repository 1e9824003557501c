"""A tiny speech tokenizer training, as its tests run and kill it."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from megatron_speech.data.manifest import ManifestRow, write_manifest
from megatron_speech.training.checkpoint import iteration_directory, latest_iteration
from megatron_speech.training.reporting import read_metrics
from tests.forked import start
from tools import train_speech_tokenizer

TEXTS = ("the cat sat", "a dog ran", "the bird sang a song", "we saw the sea")
TINY = "--d-model 32 --encoder-ffn-dim 64 --encoder-layers 2 --decoder-ffn-dim 64".split()
SHORT = "--train-iters 8 --quantize-start-step 3 --save-interval 4 --keep-last 9".split()
DATA = "--ctc-weight 0.3 --asr-vocab-size 280 --kmeans-vectors 200 --global-batch-size 4"


def write_speech(folder: Path, clips: int = 12, seed: int = 0, broken: bool = True) -> Path:
    """A manifest of noise with texts; `broken` adds a file that is no audio."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    rows = []
    for number in range(clips):
        samples = 12000 + 1500 * (number % 12)
        path = folder / f"{number}.flac"
        soundfile.write(path, 0.2 * random.standard_normal(samples), 16000)
        text = TEXTS[number % len(TEXTS)]
        rows.append(ManifestRow(id=f"u{number}", path=path, text=text, duration_s=samples / 16000))
    if broken:
        path = folder / "broken.flac"
        path.write_bytes(b"no audio")
        rows.append(ManifestRow(id="broken", path=path, text="lost", duration_s=1.0))
    write_manifest(folder / "manifest.parquet", rows)
    return folder / "manifest.parquet"


def arguments(manifest: Path, save: Path, *more: str) -> list[str]:
    """Command line of a training of eight steps."""
    files = ["--manifest", str(manifest), "--valid-manifest", str(manifest), "--save", str(save)]
    base = ["tokenizer-smoke", *files, *TINY, *SHORT, *DATA.split(), "--micro-batch-size", "4"]
    return [*base, "--no-tensorboard", *more]


def kill_when(command: list[str], due: Callable[[], bool], timeout_s: float = 120) -> bool:
    """Start the tool and kill it with signal 9 once `due`; False if it finished before."""
    process, deadline = start(train_speech_tokenizer.main, command), time.monotonic() + timeout_s
    while process.is_alive() and not due():
        time.sleep(0.005)
        assert time.monotonic() < deadline, "the training hangs"
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode in (-signal.SIGKILL, 0), process.exitcode
    return process.exitcode != 0  # it may have finished on its own in the last moment


def step_of(save: Path) -> int:
    """Steps in the newest checkpoint, 0 without one."""
    return (latest_iteration(save) if save.exists() else None) or 0


def assert_same_runs(one: Path, two: Path) -> None:
    """Exports, best models, metrics, rejected recordings and the last checkpoints are equal."""
    files = [p.relative_to(one) for folder in ("export", "best") for p in (one / folder).iterdir()]
    assert len(files) > 6
    for name in (*files, Path("rejected.jsonl")):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    for kind in ("train", "valid"):  # intervals tell the machine's speed
        assert read_metrics(one, kind) == read_metrics(two, kind), kind
    step = latest_iteration(one)
    assert step is not None
    assert step == latest_iteration(two)
    states = [torch.load(iteration_directory(run, step) / "state.pt") for run in (one, two)]
    flat = [dict(_tensors(state, "")) for state in states]
    assert flat[0].keys() == flat[1].keys()
    assert len(flat[0]) > 100
    for name, value in flat[0].items():
        assert torch.equal(value, flat[1][name]), name


def _tensors(value, path):
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _tensors(item, f"{path}/{name}")


def rejected_ids(save: Path) -> list[str]:
    """Ids in the run's `rejected.jsonl`, in order."""
    lines = (save / "rejected.jsonl").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]
