"""Training steps on GPUs: MFU in bf16, FP8 beside it, and our step beside megatron.training's.

    python benchmarks/training_gpu.py        (one GPU with 80 GB)

Each figure comes from a process of its own with random windows (`--mock-data`), 10 steps to warm
up and 20 timed. TFLOP/s and MFU count attention causally (model/config.py). FP8 and bf16 are
compared for one 9B decoder layer as the difference of eight and four layers. The peer of our step
is `megatron.training.train_step`, of the same wheel, on the same model, windows and settings; their
losses must agree before times are shown.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import report
from megatron_step import megatron_train_step
from tokenizers import Tokenizer, models

from megatron_speech.recipes import lm
from megatron_speech.training.devices import peak_tflops
from megatron_speech.training.installed import installed
from megatron_speech.vocab import SpeechTextVocab

WARM_UP, STEPS = 10, 20
FP8 = {"fp8_format": "hybrid", "fp8_recipe": "tensorwise"}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # recipe, changes of the model, changes of the precision
    "1.5b bf16": ("lm-1.5b", {}, {}),
    "1.5b fp8": ("lm-1.5b", {}, FP8),
    "9b 4 layers bf16": ("lm-9b", {"num_layers": 4}, {}),
    "9b 8 layers bf16": ("lm-9b", {"num_layers": 8}, {}),
    "9b 4 layers fp8": ("lm-9b", {"num_layers": 4}, FP8),
    "9b 8 layers fp8": ("lm-9b", {"num_layers": 8}, FP8),
}


def main() -> None:
    if len(sys.argv) > 2:  # one case, in a process of its own
        kind, case, folder = sys.argv[1:4]
        return _run_case(kind, case, Path(folder))
    if not installed().has_transformer_engine:
        raise SystemExit("this benchmark needs a GPU and Transformer Engine (pip install .[gpu])")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_vocab(folder)
        found = {case: _start("ours", case, folder) for case in CASES}
        peer = _start("peer", "1.5b bf16", folder)
    ours = found["1.5b bf16"]
    if abs(ours["loss"] - peer["loss"]) > 1e-2 * peer["loss"]:
        raise SystemExit(f"losses differ: {ours['loss']} and {peer['loss']}; no times are shown")
    figures = {f"{case}: {key}": value for case, f in found.items() for key, value in f.items()}
    layer = {
        kind: found[f"9b 8 layers {kind}"]["seconds"] - found[f"9b 4 layers {kind}"]["seconds"]
        for kind in ("bf16", "fp8")
    }
    rest = {k: found[f"9b 4 layers {k}"]["seconds"] - layer[k] for k in layer}
    whole = {k: rest[k] + 10 * layer[k] for k in layer}  # 40 layers are 10 times the four
    figures |= {
        "1.5b: whole model, fp8 over bf16": ours["seconds"] / found["1.5b fp8"]["seconds"],
        "9b: decoder layer, fp8 over bf16": layer["bf16"] / layer["fp8"],
        "9b: projected to 40 layers, fp8 over bf16": whole["bf16"] / whole["fp8"],
        "ours over megatron.training": peer["seconds"] / ours["seconds"],
        "megatron.training: seconds": peer["seconds"],
        "flop count": "causal attention, no recomputation",
    }
    report("training_gpu", "megatron.training of the same wheel; bf16 for FP8", figures)


def _start(kind: str, case: str, folder: Path) -> dict[str, float]:
    """Run a case and read its figures."""
    command = [sys.executable, __file__, kind, case, str(folder)]
    environment = {**os.environ, "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    subprocess.run(command, check=True, env=environment)
    return json.loads((folder / f"{kind} {case}.json").read_text())


def _run_case(kind: str, case: str, folder: Path) -> None:
    config = _config(case, folder)
    seconds, losses = [], []
    with ExitStack() as stack:
        trainer = stack.enter_context(lm.build(config))
        step: Callable[[int], dict[str, float]] = trainer.train_step
        if kind == "peer":
            step = stack.enter_context(megatron_train_step(trainer, config))
        for index in range(WARM_UP + STEPS):
            torch.cuda.synchronize()
            started = time.perf_counter()
            losses.append(step(index)["lm loss"])
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    typical = statistics.median(seconds[WARM_UP:])
    tokens = config.batch.global_batch_size * config.data.seq_length
    flops = config.model.train_flops_per_token(config.data.seq_length, 168_960)
    tflops = tokens * flops / typical / 1e12
    figures = {
        "seconds": typical,
        "tokens/s/GPU": tokens / typical,
        "TFLOP/s/GPU": tflops,
        "memory GiB": torch.cuda.max_memory_allocated() / 2**30,
        "loss": losses[WARM_UP],
    }
    peak = peak_tflops(installed().gpu)
    if peak is not None:
        figures["MFU %"] = 100 * tflops / peak
    (folder / f"{kind} {case}.json").write_text(json.dumps(figures))


def _config(case: str, folder: Path) -> lm.LMConfig:
    recipe, model, precision = CASES[case]
    config = lm.RECIPES[recipe]()
    return replace(
        config,
        model=replace(config.model, **model),
        data=replace(config.data, vocab=folder / "vocab", mock_data=True),
        batch=replace(config.batch, global_batch_size=8, lr_warmup_iters=5),
        precision=replace(config.precision, **precision),
        parallel=replace(config.parallel, tensor_model_parallel_size=1, sequence_parallel=False),
        loop=replace(config.loop, train_iters=WARM_UP + STEPS, save=folder / "run"),
    )


def _make_vocab(folder: Path) -> None:
    """A vocabulary of the paper's size: 168,960 rows with padding."""
    words = {"<|endoftext|>": 0} | {f"w{n}": n for n in range(1, 151_552)}
    (folder / "text").mkdir()
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.save(str(folder / "text" / "tokenizer.json"))
    SpeechTextVocab.extend(folder / "text", num_codes=16_384).save_pretrained(folder / "vocab")


if __name__ == "__main__":
    main()
