"""Memory and checkpoint of a training step with LoRA against one of all weights, on a CPU.

    python benchmarks/lora.py

A model of 28M parameters in fp32. Both start from one base and see the same windows: adapters begin
at zero, so the losses of the first step must agree before figures are shown. Each trains in a
process of its own: `held_mb` are weights, gradients and optimizer state, `peak_mb` is the most the
process ever had, with activations and what Python and torch themselves take.
"""

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import report, sized, word_vocabulary

from megatron_speech.data.config import DataConfig
from megatron_speech.model.config import ModelConfig
from megatron_speech.model.lora_config import LoRAConfig
from megatron_speech.recipes import lm
from megatron_speech.recipes.base_model import BaseConfig
from megatron_speech.training.loop import train
from megatron_speech.training.megatron.backend import MegatronTrainer

KINDS = {
    "full": LoRAConfig(),
    "lora": LoRAConfig(lora_rank=16),
    "lora_and_rows": LoRAConfig(lora_rank=16, lora_train_embedding=True),
}


def main() -> None:
    """Measure every kind and print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _vocabulary(folder)
        lm.pretrain(_config(folder, "base", LoRAConfig(), steps=1))
        found = {kind: _in_a_process(folder, kind) for kind in KINDS}
    losses = [figures.pop("loss") for figures in found.values()]
    if max(losses) - min(losses) > 1e-5 * losses[0]:
        raise SystemExit(f"losses of the first step differ: {losses}; no figures are shown")
    report("lora", "training of all weights", found)


def _in_a_process(folder: Path, kind: str) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, folder, kind).result()


def _vocabulary(folder: Path) -> None:
    word_vocabulary(folder / "words", 7000, 1000).save_pretrained(folder / "vocab")


def _config(folder: Path, name: str, lora: LoRAConfig, steps: int) -> lm.LMConfig:
    config, width = lm.lm_debug(), sized(512, 64)
    return replace(
        config,
        model=ModelConfig(
            num_layers=sized(8, 2),
            hidden_size=width,
            ffn_hidden_size=11 * width // 4,
            num_attention_heads=8,
            num_query_groups=4,
            max_position_embeddings=256,
        ),
        data=DataConfig(seq_length=sized(256, 32), mock_data=True, vocab=folder / "vocab"),
        batch=replace(config.batch, lr_warmup_iters=0),
        loop=replace(config.loop, train_iters=steps, save=folder / name, tensorboard=False),
        base=BaseConfig(pretrained_checkpoint=None if name == "base" else folder / "base"),
        lora=lora,
    )


def _measure(folder: Path, kind: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    steps = sized(3, 2)
    config = lm.resolve(_config(folder, kind, KINDS[kind], steps))
    with lm.build(config) as trainer:
        config.base.load_weights(trainer, folder / kind, stays=kind != "full")
        first = trainer.train_step(0)["lm loss"]
        began = time.process_time()
        for index in range(1, steps):
            trainer.train_step(index)
        seconds = (time.process_time() - began) / (steps - 1)
        peak, held = _peak_mb(), _held_mb(trainer)
        parameters = [p for chunk in trainer.chunks for p in chunk.parameters()]
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        train(trainer, replace(config.loop, train_iters=1))  # for its checkpoint
    files = [file for file in (folder / kind).glob("iter_*/*") if file.is_file()]
    return {
        "loss": first,
        "trained_parameters": trained,
        "held_mb": held,
        "peak_mb": peak,
        "checkpoint_mb": sum(file.stat().st_size for file in files) / 1e6,
        "cpu_s_per_step": seconds,
    }


def _held_mb(trainer: MegatronTrainer) -> float:
    """Weights, gradients and optimizer state."""
    held = [p for chunk in trainer.chunks for p in chunk.parameters()]
    held += [buffer.grad_data for chunk in trainer.chunks for buffer in chunk.buffers]
    for part in getattr(trainer.optimizer, "chained_optimizers", [trainer.optimizer]):
        states = part.optimizer.state.values()
        held += [value for state in states for value in state.values() if torch.is_tensor(value)]
    return sum(tensor.nbytes for tensor in held) / 1e6


def _peak_mb() -> float:
    """Of this process alone: getrusage would count what started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()
