"""A tiny pre-training, as its tests run and kill it."""

import io
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from megatron_speech.text.vocab import SpeechTextVocab
from megatron_speech.training.checkpoint import iteration_directory, latest_iteration
from megatron_speech.training.reporting import read_metrics
from tests import forked
from tests.data.language_data import NUM_CODES, make_vocab, random_documents, write_dataset
from tests.model.base_folders import write_base
from tools import convert_checkpoint, pretrain

TINY = (
    "lm-smoke --num-layers 2 --hidden-size 32 --ffn-hidden-size 48 --num-attention-heads 4 "
    "--num-query-groups 2 --seq-length 32 --global-batch-size 4 --micro-batch-size 2 "
    "--hidden-dropout 0.1 --eval-iters 1 --eval-interval 5 --log-interval 1 --no-tensorboard"
).split()
TINY_LORA = (
    "lm-smoke --seq-length 32 --global-batch-size 4 --micro-batch-size 2 --eval-iters 1 "
    "--eval-interval 5 --log-interval 1 --no-tensorboard --lr 1e-2 --min-lr 1e-3 "
    "--lora-rank 4 --lora-alpha 8 --lora-dropout 0.1 --lora-train-embedding"
).split()
"""Adapters, and rows of new tokens beside them."""
LOGGED = ("lm loss", "text loss", "speech loss", "grad-norm", "learning-rate", "consumed samples")


def write_data(folder: Path) -> list[str]:
    """Flags that name a vocabulary and a blend of cut and packed datasets."""
    vocab = make_vocab(folder)
    documents = random_documents(vocab, 120, seed=1)
    cut = write_dataset(folder / "cut", vocab, documents)
    name = folder / "whole_documents"
    whole = write_dataset(name, vocab, documents, "speech_after_text", "whole")
    blend = ["--data-path", "0.6", cut, "0.4", whole, "--valid-data-path", cut]
    return ["--vocab", str(folder / "vocab"), *blend]


def write_base_and_data(folder: Path) -> list[str]:
    """Flags that name an imported base with codes added to its vocabulary, and a dataset."""
    write_base(folder / "hf", "qwen3", False, torch.bfloat16)
    convert_checkpoint.main(
        f"hf-to-megatron --hf {folder / 'hf'} --save {folder / 'base'} "
        f"--num-codes {NUM_CODES}".split()
    )
    vocab = SpeechTextVocab.from_pretrained(folder / "base" / "vocab")
    data = write_dataset(folder / "cut", vocab, random_documents(vocab, 120, seed=1))
    base = ["--pretrained-checkpoint", str(folder / "base")]
    return [*base, "--data-path", "1.0", data, "--valid-data-path", data]


def start(command: list[str], output: Path | None = None) -> BaseProcess:
    """Run the tool in a process of its own, without waiting for its imports each time."""
    return forked.start(pretrain.main, command, output, preload=("megatron_speech.model.gpt",))


def kill_when(command: list[str], due: Callable[[], bool], timeout_s: float = 600) -> bool:
    """Start the tool and kill it with signal 9 once `due`; False if it finished before."""
    process, deadline = start(command), time.monotonic() + timeout_s
    while process.is_alive() and not due() and time.monotonic() < deadline:
        time.sleep(0.001)
    killed = process.is_alive()
    process.kill()
    process.join()
    assert time.monotonic() < deadline, "the training hangs"
    assert process.exitcode in ((-signal.SIGKILL,) if killed else (0,)), process.exitcode
    return killed


def step_of(save: Path) -> int:
    """Steps in the newest checkpoint, 0 without one."""
    return (latest_iteration(save) if save.exists() else None) or 0


def is_saving(save: Path) -> bool:
    """Whether a checkpoint lies there that is not declared whole yet."""
    newest = max((int(folder.name[5:]) for folder in save.glob("iter_*")), default=0)
    return newest > step_of(save)


def random_moment(chance: random.Random, save: Path) -> tuple[str, Callable[[], bool]]:
    """While it starts, within a second of a checkpoint, or while one is written."""
    kind, first, delay_s = chance.choice(["start", "step", "save", "save"]), step_of(save), 0.0
    delay_s = chance.uniform(0.0, 2.0 if kind == "start" else 1.0)
    began: list[float] = [time.monotonic()] if kind == "start" else []

    def due() -> bool:
        if kind == "save":
            return step_of(save) > first and is_saving(save)
        if not began and step_of(save) > first:
            began.append(time.monotonic())
        return bool(began) and time.monotonic() >= began[0] + delay_s

    return kind, due


def assert_same_runs(one: Path, two: Path) -> int:
    """Last checkpoints and loss logs are equal bit for bit; returns the tensors compared."""
    step = latest_iteration(one)
    assert step is not None
    assert step == latest_iteration(two)
    for kind in ("train", "valid"):
        logs = [
            [{name: r[name] for name in ("iteration", *LOGGED) if name in r} for r in records]
            for records in (read_metrics(one, kind), read_metrics(two, kind))
        ]
        assert logs[0] == logs[1]
        assert len(logs[0]) > 3
    states = [stored(iteration_directory(run, step)) for run in (one, two)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert any("exp_avg_sq" in name for name in states[0])
    return len(states[0])


def stored(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, those of the random state included."""
    from torch.distributed.checkpoint import FileSystemReader

    found: dict[str, torch.Tensor] = {}
    for index, info in FileSystemReader(directory).read_metadata().storage_data.items():
        content = (directory / info.relative_path).read_bytes()
        part = io.BytesIO(content[info.offset : info.offset + info.length])
        name = f"{index.fqn}{list(index.offset or [])}"
        found |= dict(_tensors(torch.load(part, weights_only=False), name))
    return found


def _tensors(value, path):
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, io.BytesIO):
        value.seek(0)
        yield from _tensors(torch.load(value, weights_only=False), path)
    elif isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(item, f"{path}/{name}")
