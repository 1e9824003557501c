"""The vLLM adapter against vLLM itself, in the environment that `make test-vllm` builds."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaForCausalLM

from megatron_speech.data.templates import speak_prompt
from megatron_speech.interleaving.generate import generate
from megatron_speech.interleaving.plan import plan
from megatron_speech.text.vocab import SpeechTextVocab
from megatron_speech.text_to_token.engines import EngineConfig
from megatron_speech.text_to_token.transformers_engine import TransformersEngine
from megatron_speech.text_to_token.vllm_engine import VllmEngine
from tests.interleaving.jobs import files_of, generate_config, plan_config
from tests.interleaving.samples import make_vocab, write_codes, write_corpus
from tests.text_to_token.tiny_model import write_model

pytestmark = pytest.mark.vllm

PYTHON = Path(os.environ.get("VLLM_PYTHON", ".venv-vllm/bin/python")).absolute()
TEXTS = ["The cat.", "Mira saw a red dog near the river.", "ran", "She and Tom ate bread."] * 4
SEEDS = list(range(100, 100 + len(TEXTS)))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Vocabulary, corpus, real codes and a model of a width that vLLM's kernels take."""
    folder = tmp_path_factory.mktemp("world")
    vocab = make_vocab(folder)
    write_corpus(folder / "corpus.parquet", 40)
    write_codes(folder / "like" / "a.parquet")
    write_model(folder / "model", vocab, width=128, heads=2)
    return folder


@pytest.fixture(scope="module")
def engines(world):
    assert PYTHON.exists(), f"{PYTHON} is missing; run make test-vllm, or set VLLM_PYTHON"
    found = {}

    def engine(**settings):
        key = repr(settings)
        if key not in found:
            config = EngineConfig(
                engine="vllm", vllm_python=PYTHON, vllm_cache_gib=1, batch_size=8, **settings
            )
            found[key] = VllmEngine(world / "model", config)
        return found[key]

    yield engine
    for one in found.values():
        one.close()


def run(engine, texts=TEXTS, seeds=SEEDS):
    # the first text is cut short, the others may end by themselves
    results = engine.generate(texts, seeds, lambda text: 2 if text == TEXTS[0] else 5 + len(text))
    return [(result.codes.tolist(), result.ended) for result in results]


def near_ties(model, vocab, text, codes):
    """Smallest distance between the two likeliest tokens along a greedy decoding."""
    ids = speak_prompt(vocab, vocab.text.encode(text)).tolist()
    ids += vocab.codes_to_tokens(codes).tolist()
    allowed = [*range(vocab.code_offset, vocab.code_offset + vocab.num_codes)]
    allowed.append(vocab.end_of_audio_id)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0][-len(codes) - 1 :, allowed]
    best = logits.topk(2).values
    return float((best[:, 0] - best[:, 1]).min())


def test_likeliest_codes_are_those_of_the_transformers_engine(world, engines):
    ours = run(TransformersEngine(world / "model", EngineConfig(device="cpu")))
    theirs = run(engines())
    assert len({ended for _, ended in ours}) == 2, "want texts that end and that do not"
    model = LlamaForCausalLM.from_pretrained(world / "model")
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    for text, one, other in zip(TEXTS, ours, theirs, strict=True):
        assert one == other or near_ties(model, vocab, text, one[0]) < 1e-3, text


def test_sampling_is_by_the_seed_of_each_request(engines):
    engine = engines(temperature=1.0)
    first = run(engine)
    assert run(engine) == first, "calls before change nothing"
    backwards = run(engine, TEXTS[::-1], SEEDS[::-1])[::-1]
    assert np.mean([a == b for a, b in zip(first, backwards, strict=True)]) > 0.9
    other = run(engine, seeds=[seed + 1000 for seed in SEEDS])
    assert np.mean([a == b for a, b in zip(first, other, strict=True)]) < 0.5


def test_request_shards_become_code_shards(world, engines, tmp_path):
    plan(plan_config(world, tmp_path / "plan"))
    counts = generate(generate_config(world, tmp_path), engines())
    assert counts["shards_missing"] == 0
    assert counts["requests"] > 40
    before = files_of(tmp_path / "codes")
    name = sorted(path for path in before if path.endswith("-00000.parquet"))[0]
    (tmp_path / "codes" / name).unlink()
    generate(generate_config(world, tmp_path), engines())
    assert files_of(tmp_path / "codes") == before
    assert pq.read_table(tmp_path / "codes" / name).schema.field("codes").type == pa.list_(
        pa.uint16()
    )
