"""The model itself: causality, documents kept apart, the parameters it claims to have."""

from dataclasses import replace

import pytest
import torch

from megatron_speech.errors import ConfigError
from megatron_speech.model.config import ModelConfig
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.training.megatron import cpu_stand_in
from megatron_speech.training.megatron.batch import separating_mask
from megatron_speech.training.megatron.parallel import ParallelConfig, session

MODEL = ModelConfig(
    num_layers=2,
    hidden_size=32,
    ffn_hidden_size=48,
    num_attention_heads=4,
    num_query_groups=2,
    max_position_embeddings=32,
)


@pytest.fixture
def model():
    with session(ParallelConfig()):
        yield build_model(MODEL, ParallelConfig(), BuildOptions(padded_vocab_size=64))[0].eval()


def logits_of(model, tokens, documents=None):
    positions = torch.arange(tokens.size(1)).expand_as(tokens)
    mask = None if documents is None else separating_mask(documents)
    with torch.no_grad():
        return model(tokens, positions, mask)


def test_future_tokens_change_nothing(model):
    tokens = torch.randint(0, 64, (2, 16))
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 64
    before, after = logits_of(model, tokens), logits_of(model, changed)
    assert torch.allclose(before[:, :9], after[:, :9], atol=1e-6)
    assert not torch.allclose(before[:, 9], after[:, 9], atol=1e-3)


def test_packed_documents_see_only_themselves(model):
    tokens = torch.randint(0, 64, (1, 16))
    documents = torch.tensor([[0] * 7 + [1] * 9])
    packed = logits_of(model, tokens, documents)
    alone = logits_of(model, tokens[:, 7:])
    assert torch.allclose(packed[:, 7:], alone, atol=1e-5)
    assert not torch.allclose(logits_of(model, tokens)[:, 7:], alone, atol=1e-3)


@pytest.mark.parametrize("untied", [False, True])
def test_parameter_count(untied):
    config = replace(MODEL, untie_embeddings_and_output_weights=untied)
    with session(ParallelConfig()):
        model = build_model(config, ParallelConfig(), BuildOptions(padded_vocab_size=64))[0]
    assert sum(p.numel() for p in model.parameters()) == config.num_parameters(64)


@pytest.mark.parametrize("untied", [False, True])
def test_rows_that_pad_take_no_part(untied):
    """As if they were not there: in the losses, in every gradient, and they get none."""
    config = replace(MODEL, untie_embeddings_and_output_weights=untied)
    tokens, labels = torch.randint(0, 50, (2, 2, 16), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(16).expand_as(tokens)
    weights, found = {}, []
    with session(ParallelConfig(), seed=3):
        for padded in (72, 50):
            options = BuildOptions(padded_vocab_size=padded, vocab_rows=50)
            model = build_model(config, ParallelConfig(), options)[0]
            for name, parameter in model.named_parameters():
                if padded == 72:
                    weights[name] = parameter.detach().clone()
                parameter.data.copy_(weights[name][: len(parameter)])
            losses = model(tokens, positions, None, labels=labels)
            losses.sum().backward()
            found.append((losses, {name: p.grad for name, p in model.named_parameters()}))
    (losses, gradients), (expected, wanted) = found
    assert torch.allclose(losses, expected, atol=1e-6)
    for name, gradient in gradients.items():
        rows = len(wanted[name])
        assert torch.allclose(gradient[:rows], wanted[name], atol=1e-6), name
        assert not gradient[rows:].any()


def test_session_leaves_nothing_behind():
    import torch.cuda as cuda

    before = (cuda.current_device, cuda.Stream, cuda.random.get_rng_state)
    state = torch.get_rng_state()
    with session(ParallelConfig()):
        assert torch.zeros(1, device="cuda").device.type == "cpu"
        torch.rand(3)
    assert not torch.distributed.is_initialized()
    assert (cuda.current_device, cuda.Stream, cuda.random.get_rng_state) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_stand_in_refuses_an_untested_core(monkeypatch):
    monkeypatch.setattr(cpu_stand_in, "CORE_VERSION", "0.0.1")
    with pytest.raises(ConfigError, match=r"0\.0\.1"), cpu_stand_in.cpu_stand_in():
        pass
