"""Training steps on GPUs: MFU in bf16, FP8 beside it, and our step beside megatron.training's.

    python benchmarks/training_gpu.py steps     lm-1.5b in bf16, and megatron.training's step
    python benchmarks/training_gpu.py fp8       FP8 over bf16: lm-1.5b, and layers of lm-9b
    python benchmarks/training_gpu.py curves    losses of both over 200 steps

On one GPU with 80 GB; FP8 needs Transformer Engine. Each figure comes from a process of its own
with random windows (`--mock-data`), 5 steps to warm up and 10 timed. TFLOP/s and MFU count
attention causally (model/config.py). FP8 and bf16 are compared for one 9B decoder layer as the
difference of eight and four layers, and by their losses over 200 steps on text that can be learned:
a random chain of 4,096 words, eight of which may follow each. The peer of our step is
`megatron.training.train_step`, of the same wheel, on the same model, windows and settings; their
losses must agree before times are shown. At smoke size the model is lm-smoke's, all runs in one
process, and bf16 stands in for FP8.
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
from common import SMOKE, report, sized, synchronize, word_vocabulary
from megatron_step import megatron_train_step

from megatron_speech.data.indexed import IndexedWriter
from megatron_speech.io.files import read_json, write_json
from megatron_speech.recipes import lm
from megatron_speech.text.vocab import SpeechTextVocab
from megatron_speech.training.devices import peak_tflops
from megatron_speech.training.installed import installed

WARM_UP, STEPS = sized(5, 1), sized(10, 2)
CURVE_STEPS, AVERAGED = sized(200, 4), sized(10, 2)  # AVERAGED steps are compared together
TEXT_WORDS, NUM_CODES = sized(151_552, 1_529), sized(16_384, 512)  # 168,960 rows with padding
CHAIN_WORDS, FOLLOWERS, CHAIN_TOKENS = 4096, 8, sized(4_000_000, 20_000)
FP8 = {} if SMOKE else {"fp8_format": "hybrid", "fp8_recipe": "tensorwise"}
SMALL, LARGE = ("lm-smoke", "lm-smoke") if SMOKE else ("lm-1.5b", "lm-9b")
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # recipe, changes of the model, changes of the precision
    "1.5b bf16": (SMALL, {}, {}),
    "1.5b fp8": (SMALL, {}, FP8),
    "9b 4 layers bf16": (LARGE, {"num_layers": 4}, {}),
    "9b 8 layers bf16": (LARGE, {"num_layers": 8}, {}),
    "9b 4 layers fp8": (LARGE, {"num_layers": 4}, FP8),
    "9b 8 layers fp8": (LARGE, {"num_layers": 8}, FP8),
}
COUNTED = {"flop count": "causal attention, no recomputation"}


def main() -> None:
    if len(sys.argv) == 4:  # one case, in a process of its own
        kind, case, folder = sys.argv[1:]
        return _run_case(kind, case, Path(folder))
    if len(sys.argv) != 2 or sys.argv[1] not in PARTS:
        raise SystemExit(f"name one of: {', '.join(PARTS)}")
    if not SMOKE and installed().gpu is None:
        raise SystemExit("this benchmark needs a GPU; torch sees none here")
    with tempfile.TemporaryDirectory() as name:
        _make_vocab(Path(name))
        PARTS[sys.argv[1]](Path(name))


def steps(folder: Path) -> None:
    """Our step in bf16, and the peer's."""
    ours, peer = (_start(kind, "1.5b bf16", folder) for kind in ("ours", "peer"))
    if abs(ours["loss"] - peer["loss"]) > 1e-2 * peer["loss"]:
        raise SystemExit(f"losses differ: {ours['loss']} and {peer['loss']}; no times are shown")
    figures = {f"1.5b bf16: {key}": value for key, value in ours.items()} | {
        "ours over megatron.training": peer["seconds"] / ours["seconds"],
        "megatron.training: seconds": peer["seconds"],
    }
    report("training_gpu", "megatron.training of the same wheel", figures | COUNTED)


def fp8(folder: Path) -> None:
    """FP8 over bf16, for layers and a whole model."""
    found = {case: _start("ours", case, folder) for case in CASES}
    seconds = {case: found[case]["seconds"] for case in found}
    layer = {k: seconds[f"9b 8 layers {k}"] - seconds[f"9b 4 layers {k}"] for k in ("bf16", "fp8")}
    rest = {k: seconds[f"9b 4 layers {k}"] - layer[k] for k in layer}
    whole = {k: rest[k] + 10 * layer[k] for k in layer}  # 40 layers are 10 times the four
    figures = {f"{case}: {key}": value for case, f in found.items() for key, value in f.items()}
    figures |= {
        "1.5b: whole model, fp8 over bf16": seconds["1.5b bf16"] / seconds["1.5b fp8"],
        "9b: decoder layer, fp8 over bf16": layer["bf16"] / layer["fp8"],
        "9b: projected to 40 layers, fp8 over bf16": whole["bf16"] / whole["fp8"],
    }
    report("training_gpu_fp8", "bf16", figures | COUNTED)


def curves(folder: Path) -> None:
    """Losses of both precisions."""
    bf16, fp8 = (_start("curve", f"1.5b {kind}", folder)["losses"] for kind in ("bf16", "fp8"))
    figures = {
        "steps": CURVE_STEPS,
        "largest deviation of fp8 losses": deviation(bf16, fp8),
        "bf16 losses": bf16,
        "fp8 losses": fp8,
    }
    report("training_gpu_curves", "bf16", figures)


PARTS: dict[str, Callable[[Path], None]] = {"steps": steps, "fp8": fp8, "curves": curves}


def deviation(expected: list[float], found: list[float]) -> float:
    """Largest relative difference of two loss curves, averaged over some steps at a time."""
    means = [np.reshape(losses, (-1, AVERAGED)).mean(axis=1) for losses in (expected, found)]
    return float(np.max(np.abs(means[1] - means[0]) / means[0]))


def _start(kind: str, case: str, folder: Path) -> dict[str, Any]:
    """Run a case in a process of its own, at smoke size in this one, and read its figures."""
    if SMOKE:
        _run_case(kind, case, folder)
    else:
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
            synchronize()
            started = time.perf_counter()
            losses.append(step(index)["lm loss"])
            synchronize()
            seconds.append(time.perf_counter() - started)
    if kind == "curve":
        return write_json(folder / f"{kind} {case}.json", {"losses": losses})
    typical = statistics.median(seconds[WARM_UP:])
    tokens = config.batch.global_batch_size * config.data.seq_length
    vocab = SpeechTextVocab.from_pretrained(folder / "vocab")
    flops = config.model.train_flops_per_token(config.data.seq_length, vocab.padded_size)
    tflops = tokens * flops / typical / 1e12
    figures = {
        "seconds": typical,
        "tokens/s/GPU": tokens / typical,
        "TFLOP/s/GPU": tflops,
        "loss": losses[WARM_UP],
    }
    if torch.cuda.is_available():
        figures["memory GiB"] = torch.cuda.max_memory_allocated() / 2**30
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
        data=replace(
            config.data, vocab=folder / "vocab", mock_data=True, reset_attention_mask=False
        ),
        batch=replace(
            config.batch, micro_batch_size=1, global_batch_size=sized(8, 2), lr_warmup_iters=WARM_UP
        ),
        precision=replace(config.precision, **precision),
        parallel=replace(config.parallel, tensor_model_parallel_size=1, sequence_parallel=False),
        loop=replace(
            config.loop, train_iters=WARM_UP + STEPS, save=folder / "run", eval_interval=0
        ),
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
    """A vocabulary of the paper's size, and text to learn."""
    vocab = word_vocabulary(folder / "text", TEXT_WORDS, NUM_CODES)
    vocab.save_pretrained(folder / "vocab")
    write_chain(folder / "chain", vocab)


if __name__ == "__main__":
    main()
