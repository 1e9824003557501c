"""Training steps on GPUs: MFU in bf16, FP8 beside it, and our step beside megatron.training's.

    python benchmarks/training_gpu.py        (one GPU with 80 GB)

Each figure comes from a process of its own with random windows (`--mock-data`), 10 steps to warm
up and 20 timed. TFLOP/s and MFU count attention causally (model/config.py). FP8 and bf16 are
compared for one 9B decoder layer as the difference of eight and four layers, and by their losses
over 200 steps on text that can be learned: a random chain of 4,096 words, eight of which may follow
each. The peer of our step is `megatron.training.train_step`, of the same wheel, on the same model,
windows and settings; their losses must agree before times are shown.
"""

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

import numpy as np
import torch
from common import report
from megatron_step import megatron_train_step
from tokenizers import Tokenizer, models

from megatron_speech.data.indexed import IndexedWriter
from megatron_speech.files import read_json, write_json
from megatron_speech.recipes import lm
from megatron_speech.training.devices import peak_tflops
from megatron_speech.training.installed import installed
from megatron_speech.vocab import SpeechTextVocab

WARM_UP, STEPS, CURVE_STEPS = 10, 20, 200
AVERAGED = 10  # steps of a loss curve that are compared together
CHAIN_WORDS, FOLLOWERS, CHAIN_TOKENS = 4096, 8, 4_000_000
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
        curves = [_start("curve", f"1.5b {kind}", folder)["losses"] for kind in ("bf16", "fp8")]
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
        f"1.5b: largest deviation of fp8 losses over {CURVE_STEPS} steps": deviation(*curves),
        "1.5b: bf16 loss at the end": curves[0][-1],
        "ours over megatron.training": peer["seconds"] / ours["seconds"],
        "megatron.training: seconds": peer["seconds"],
        "flop count": "causal attention, no recomputation",
    }
    report("training_gpu", "megatron.training of the same wheel; bf16 for FP8", figures)


def deviation(expected: list[float], found: list[float]) -> float:
    """Largest relative difference of two loss curves, averaged over some steps at a time."""
    means = [np.reshape(losses, (-1, AVERAGED)).mean(axis=1) for losses in (expected, found)]
    return float(np.max(np.abs(means[1] - means[0]) / means[0]))


def _start(kind: str, case: str, folder: Path) -> dict[str, Any]:
    """Run a case and read its figures."""
    command = [sys.executable, __file__, kind, case, str(folder)]
    environment = {**os.environ, "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    subprocess.run(command, check=True, env=environment)
    return read_json(folder / f"{kind} {case}.json")


def _run_case(kind: str, case: str, folder: Path) -> None:
    config = _config(case, folder)
    if kind == "curve":
        config = _on_the_chain(config, folder)
    seconds, losses = [], []
    with ExitStack() as stack:
        trainer = stack.enter_context(lm.build(config))
        step: Callable[[int], dict[str, float]] = trainer.train_step
        if kind == "peer":
            step = stack.enter_context(megatron_train_step(trainer, config))
        for index in range(config.loop.train_iters):
            torch.cuda.synchronize()
            started = time.perf_counter()
            losses.append(step(index)["lm loss"])
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    if kind == "curve":
        return write_json(folder / f"{kind} {case}.json", {"losses": losses})
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
    write_json(folder / f"{kind} {case}.json", figures)


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


def _on_the_chain(config: lm.LMConfig, folder: Path) -> lm.LMConfig:
    data = replace(config.data, mock_data=False, data_path=(str(folder / "chain"),))
    loop = replace(config.loop, train_iters=CURVE_STEPS, save=folder / "curve")
    return replace(config, data=data, loop=loop, batch=replace(config.batch, global_batch_size=2))


def write_chain(prefix: Path, vocab: SpeechTextVocab, tokens: int = CHAIN_TOKENS) -> None:
    """Text in which each of some words is followed by one of a few, drawn alike; one document."""
    random = np.random.default_rng(0)
    words = min(CHAIN_WORDS, vocab.text.size - 1)
    following = random.integers(1, words + 1, (words + 1, FOLLOWERS))
    chosen, word = random.integers(0, FOLLOWERS, tokens), 1
    ids = np.empty(tokens, np.int64)
    for place in range(tokens):
        ids[place] = word
        word = following[word, chosen[place]]
    with IndexedWriter(prefix, vocab) as writer:
        writer.add_documents([ids])
    writer.write_facts("text", None)


def _make_vocab(folder: Path) -> None:
    """A vocabulary of the paper's size: 168,960 rows with padding."""
    words = {"<|endoftext|>": 0} | {f"w{n}": n for n in range(1, 151_552)}
    (folder / "text").mkdir()
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.save(str(folder / "text" / "tokenizer.json"))
    vocab = SpeechTextVocab.extend(folder / "text", num_codes=16_384)
    vocab.save_pretrained(folder / "vocab")
    write_chain(folder / "chain", vocab)


if __name__ == "__main__":
    main()
