"""The vLLM adapter against a stand-in; tests/long/test_vllm.py runs it against vLLM itself."""

import sys
from pathlib import Path

import numpy as np
import pytest

from megatron_speech.errors import ConfigError
from megatron_speech.text_to_token import vllm_engine
from megatron_speech.text_to_token.choose_engine import make_engine
from megatron_speech.text_to_token.engines import EngineConfig
from megatron_speech.text_to_token.vllm_engine import VllmEngine
from tests.interleaving.samples import make_vocab
from tests.text_to_token import fake_vllm
from tests.text_to_token.tiny_model import write_model

TEXTS = ["The cat ran.", "Mira", "Tom saw a red dog near the river and then a house."]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    vocab = make_vocab(tmp_path_factory.mktemp("vocab"))
    found = (vocab.code_offset, vocab.num_codes, vocab.end_of_audio_id)
    assert found == (fake_vllm.FIRST_CODE, fake_vllm.NUM_CODES, fake_vllm.END)
    write_model(folder, vocab)
    return folder


@pytest.fixture
def fake(tmp_path):
    """A `python` that runs the stand-in."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {fake_vllm.__file__} "$@"\n')
    program.chmod(0o700)
    return program


def test_results_are_those_of_their_texts(model, fake):
    engine = make_engine(model, EngineConfig(engine="vllm", vllm_python=fake))
    assert isinstance(engine, VllmEngine)
    assert engine.version == "fake"
    done = []
    results = engine.generate(TEXTS, [7, 8, 9], lambda text: 12, done.append)
    again = engine.generate(TEXTS[::-1], [9, 8, 7], lambda text: 12)[::-1]
    lengths = [len(engine.vocab.text.encode(text)) + 2 for text in TEXTS]
    for result, repeated, length in zip(results, again, lengths, strict=True):
        assert len(result.codes) == min(length, 12)
        assert result.ended == (length < 12)
        assert np.array_equal(result.codes, repeated.codes)
    assert sum(done) == len(TEXTS)
    assert engine.generate([], [], lambda text: 12) == []
    engine.close()


def test_what_vllm_said_last_is_said(model, fake, tmp_path):
    engine = VllmEngine(model, EngineConfig(engine="vllm", vllm_python=fake))
    engine.vocab.text.encode_batch = lambda texts: [[666] for _ in texts]
    with pytest.raises(ConfigError, match=r"(?s)finished shards are kept.*out of memory, said"):
        engine.generate(["x"], [1], lambda text: 5)
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no vllm here >&2\nexit 3\n")
    broken.chmod(0o700)
    with pytest.raises(ConfigError, match=r"(?s)ended with status 3.*no vllm here"):
        VllmEngine(model, EngineConfig(engine="vllm", vllm_python=broken))


def test_engine_and_environment_are_named_together():
    for bad in ({"engine": "vllm"}, {"vllm_python": Path("python")}):
        with pytest.raises(ConfigError, match="--engine vllm needs --vllm-python"):
            EngineConfig(**bad)


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [
        (None, "cuda:1", "1"),
        ("2,5", "cuda:1", "5"),
        ("GPU-8932f937, GPU-d0ad2f1c", "cuda:0", "GPU-8932f937"),
        ("MIG-GPU-1/1/0", "cuda:0", "MIG-GPU-1/1/0"),
        ("2,5", "auto", "2,5"),
    ],
)
def test_vllm_gets_a_device_of_those_this_process_sees(visible, device, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = EngineConfig(engine="vllm", vllm_python=Path("python"), device=device)
    assert vllm_engine.environment(config)["CUDA_VISIBLE_DEVICES"] == expected


def test_a_device_that_is_not_visible_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    config = EngineConfig(engine="vllm", vllm_python=Path("python"), device="cuda:1")
    with pytest.raises(ConfigError, match="'3'; choose one of its 1"):
        vllm_engine.environment(config)
