"""Text to codes with the transformers engine: batches of 512 against one text at a time.

    python benchmarks/generation.py          t2t-debug's shape, one core
    python benchmarks/generation.py --gpu    t2t-1.5b's shape in bf16, one GPU
    python benchmarks/generation.py --gpu --vllm PYTHON    the vLLM of that environment beside it

The weights are random and hardly ever stop, so every text gets as many codes as it may have. Also
counts how many texts get other codes in another batch size.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import report, sized, time_pair, word_vocabulary
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_speech.recipes.lm import RECIPES
from megatron_speech.text_to_token.choose_engine import make_engine
from megatron_speech.text_to_token.engines import EngineConfig
from megatron_speech.text_to_token.transformers_engine import TransformersEngine

TEXTS, ALONE, WORDS, CODES = sized(512, 64), sized(8, 1), 10, sized(40, 10)
NUM_CODES = {"t2t-debug": 512, "t2t-1.5b": 16_384}


def main(recipe: str, settings: dict[str, str], clock: Callable[[], float], name: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        texts = write_model(folder, recipe)
        engine = TransformersEngine(folder, EngineConfig(**settings))
    engines = {size: resized(engine, size) for size in (TEXTS, 64, 1)}

    def run(size: int, count: int) -> list[list[int]]:
        found = engines[size].generate(texts[:count], range(count), lambda text: CODES)
        return [generation.codes.tolist() for generation in found]

    together = run(TEXTS, TEXTS)
    differing = {
        f"texts_that_differ_in_batches_of_{size}": np.mean(
            [a != b for a, b in zip(together, run(size, count), strict=False)]
        )
        for size, count in ((64, TEXTS), (1, 32))
    }
    times = time_pair(lambda: run(TEXTS, TEXTS), lambda: run(1, ALONE), rounds=3, clock=clock)
    codes = np.array([len(codes) for codes in together])
    ours, peer = codes.sum() / times["ours_s"], codes[:ALONE].sum() / times["peer_s"]
    unit = "codes_per_s" if torch.cuda.is_available() else "codes_per_core_s"
    figures = {
        unit: float(ours),
        f"{unit}_alone": float(peer),
        "ratio": float(ours / peer),
        **{name: float(share) for name, share in differing.items()},
    }
    report(name, "the same engine, one text at a time", figures)


def beside_vllm(recipe: str, settings: dict[str, str], python: Path, name: str) -> None:
    """vLLM against the transformers engine, on the same texts."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        texts = write_model(folder, recipe)
        peer = TransformersEngine(folder, EngineConfig(**settings))
        ours = make_engine(folder, EngineConfig(**settings, engine="vllm", vllm_python=python))
        engines = {"ours": ours, "peer": peer}

        def run(engine: str) -> list[list[int]]:
            found = engines[engine].generate(texts, range(TEXTS), lambda text: CODES)
            return [generation.codes.tolist() for generation in found]

        found, expected = run("ours"), run("peer")
        times = time_pair(lambda: run("ours"), lambda: run("peer"), rounds=3)
        ours.close()
    figures = times | {
        "codes_per_s": sum(map(len, found)) / times["ours_s"],
        "transformers_codes_per_s": sum(map(len, expected)) / times["peer_s"],
        "texts_that_differ": float(np.mean([a != b for a, b in zip(found, expected, strict=True)])),
    }
    report(name, "the transformers engine", figures)


def resized(engine: TransformersEngine, batch_size: int) -> TransformersEngine:
    """The same model under another batch size."""
    other = copy(engine)
    other.config = replace(engine.config, batch_size=batch_size)
    return other


def write_model(folder: Path, recipe: str) -> list[str]:
    """An exported folder; returns texts of its words."""
    vocab = word_vocabulary(folder / "text", 1000, NUM_CODES[recipe])
    shape = RECIPES[recipe]().model
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab.padded_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.ffn_hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_query_groups,
        max_position_embeddings=shape.max_position_embeddings,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config)
    model.to(torch.bfloat16 if recipe == "t2t-1.5b" else torch.float32).save_pretrained(folder)
    vocab.save_pretrained(folder)
    random = np.random.default_rng(0)
    return [
        " ".join(f"w{n}" for n in random.integers(1, 1000, random.poisson(WORDS) + 1))
        for _ in range(TEXTS)
    ]


if __name__ == "__main__":
    if "--gpu" in sys.argv[1:]:
        if not torch.cuda.is_available():
            raise SystemExit("--gpu: torch sees no GPU here")
        settings = {"device": "cuda", "dtype": "bfloat16"}
        if "--vllm" in sys.argv:
            vllm = Path(sys.argv[sys.argv.index("--vllm") + 1])
            beside_vllm("t2t-1.5b", settings, vllm, "generation_vllm_gpu")
            raise SystemExit
        main("t2t-1.5b", settings, time.perf_counter, "generation_gpu")
    else:
        torch.set_num_threads(1)
        main("t2t-debug", {"device": "cpu"}, time.process_time, "generation")
