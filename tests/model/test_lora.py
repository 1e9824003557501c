"""Adapters by themselves: what they add, what peft would call them, how they move a layer."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from megatron_speech.errors import ConfigError
from megatron_speech.model.config import ModelConfig
from megatron_speech.model.families import get_family, split
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.model.lora import add_lora
from megatron_speech.model.lora_config import TARGETS, LoRAConfig, added_rows
from megatron_speech.training.megatron.parallel import ParallelConfig, session
from tests.data.language_data import NUM_CODES, make_vocab

ONE = ParallelConfig()
MODEL = ModelConfig(
    num_layers=2,
    hidden_size=32,
    ffn_hidden_size=48,
    num_attention_heads=4,
    num_query_groups=2,
    max_position_embeddings=32,
    init_method_std=0.2,
)
TOKENS = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(1))
POSITIONS = torch.arange(16).expand_as(TOKENS)
PARENTS = {"linear_qkv": "self_attention", "linear_proj": "self_attention"}


@pytest.fixture
def model():
    with session(ONE, seed=3):
        yield build_model(MODEL, ONE, BuildOptions(padded_vocab_size=64))[0]


def linear_of(chunk, target):
    """The layer of that name in the second transformer layer, and its adapter."""
    parent = getattr(chunk.decoder.layers[1], PARENTS.get(target, "mlp"))
    return getattr(parent, target), getattr(parent, f"{target}_lora")


def losses_of(chunk):
    return chunk(TOKENS, POSITIONS, None, labels=TOKENS)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_adds_scaled_products_of_each_fused_part(target, rslora, model):
    """Of x, as peft's formula for q_proj, k_proj and so on has it."""
    lora = LoRAConfig(lora_rank=4, lora_alpha=6, lora_targets=(target,), lora_rslora=rslora)
    add_lora([model], MODEL, lora, None, seed=1)
    _, adapter = linear_of(model, target)
    with torch.no_grad():
        adapter.b.normal_()
    x = torch.randn(5, 2, adapter.a.size(1))
    *_, rule = next(lora.targets(MODEL))
    rows = split(rule, adapter.b.flatten(0, 1), MODEL)
    scale = 6 / (2 if rslora else 4)
    parts = [scale * x @ a.T @ b.T for a, b in zip(adapter.a.split(4), rows, strict=True)]
    found = split(rule, adapter(x).flatten(0, 1).T, MODEL)
    for part, expected in zip(found, parts, strict=True):
        assert torch.allclose(part.T.reshape(expected.shape), expected, atol=1e-5)
    assert len(parts) == {"linear_qkv": 3, "linear_fc1": 2}.get(target, 1)


def test_nothing_changes_at_first_and_adapters_alone_are_trained(model):
    before = losses_of(model.eval())
    add_lora([model], MODEL, LoRAConfig(lora_rank=4), None, seed=1)
    assert torch.equal(losses_of(model), before)
    losses_of(model).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("_lora." in name), name
        assert (parameter.grad is not None) == ("_lora." in name), name
    assert any(p.grad.any() for n, p in model.named_parameters() if n.endswith("_lora.b"))


@pytest.mark.parametrize("target", TARGETS)
def test_adapters_of_full_rank_move_a_layer_as_training_it_does(target, model):
    """To first order: with A the identity (of each part) the change of scale x B A by a step of
    gradient descent is that of the weight, for both gradients are dL/dW."""
    losses_of(model).sum().backward()
    plain = linear_of_plain(model, target)
    wanted = -plain.weight.grad.clone()
    rank = plain.weight.size(1)
    lora = LoRAConfig(lora_rank=rank, lora_alpha=rank, lora_targets=(target,))
    add_lora([model], MODEL, lora, None, seed=1)
    linear, adapter = linear_of(model, target)
    with torch.no_grad():
        adapter.a.copy_(torch.eye(rank).repeat(len(adapter.a) // rank, 1))
    losses_of(model).sum().backward()
    *_, rule = next(lora.targets(MODEL))
    moved = split(rule, -adapter.b.grad.flatten(0, 1), MODEL)
    for change, expected in zip(moved, split(rule, wanted, MODEL), strict=True):
        assert expected.abs().max() > 1e-3
        assert torch.allclose(change, expected, rtol=1e-4, atol=1e-5)
    # and the function then changes as it does with the weight changed
    step = 1e-2
    with torch.no_grad():
        adapter.b += -step * adapter.b.grad
        by_adapter = losses_of(model)
        adapter.b.zero_()
        linear.weight += step * wanted
        assert torch.allclose(losses_of(model), by_adapter, atol=1e-4)


def linear_of_plain(chunk, target):
    return getattr(getattr(chunk.decoder.layers[1], PARENTS.get(target, "mlp")), target)


def test_first_values_depend_on_seed_and_place_alone(model):
    lora = LoRAConfig(lora_rank=4)
    add_lora([model], MODEL, lora, None, seed=1)
    again, other = (build_model(MODEL, ONE, BuildOptions(padded_vocab_size=64)) for _ in range(2))
    add_lora(again, MODEL, lora, None, seed=1)
    add_lora(other, MODEL, lora, None, seed=2)
    one, same, different = (linear_of(c, "linear_fc1")[1].a for c in (model, *again, *other))
    assert torch.equal(one, same)
    assert not torch.equal(one, different)
    assert one.abs().max() <= 1 / 32**0.5
    assert not torch.equal(one, model.decoder.layers[0].mlp.linear_fc1_lora.a)


@pytest.mark.parametrize("untied", [False, True])
def test_trained_rows_stand_in_for_those_of_the_tables(untied):
    """Same losses as with them written into the tables, and gradients for them alone."""
    config = replace(MODEL, untie_embeddings_and_output_weights=untied)
    first, stop = 20, 45
    with session(ONE, seed=3):
        (chunk,) = build_model(config, ONE, BuildOptions(padded_vocab_size=64))
        add_lora([chunk], config, LoRAConfig(lora_rank=4, lora_train_embedding=True), (20, 45), 1)
        names = ["embedding_rows", "output_rows"] if untied else ["embedding_rows"]
        tables = [chunk.embedding.word_embeddings.weight, chunk.output_layer.weight]
        with torch.no_grad():
            for name in names:
                getattr(chunk, name).weight.normal_()
        found = losses_of(chunk)
        found.sum().backward()
        for name in names:
            assert getattr(chunk, name).weight.grad.any()
        with torch.no_grad():
            for name, table in zip(names, tables, strict=False):
                table[first:stop] = getattr(chunk, name).weight
                getattr(chunk, name).start(table)  # what they begin as is what the table has
                assert torch.equal(getattr(chunk, name).weight, table[first:stop])
    assert torch.allclose(found, plain_losses(config, chunk), atol=1e-5)


def plain_losses(config, trained):
    """Of a model without adapters that has the tables and layers of another."""
    with session(ONE, seed=4):
        (chunk,) = build_model(config, ONE, BuildOptions(padded_vocab_size=64))
        chunk.load_state_dict(trained.state_dict(), strict=False)
        with torch.no_grad():
            return losses_of(chunk)


def test_the_engines_layer_with_a_norm_in_it_gives_adapters_the_normed_input(model):
    """As Transformer Engine has it: the linear layer takes what comes before the norm."""
    add_lora([model], MODEL, LoRAConfig(lora_rank=4), None, seed=1)
    linear, adapter = linear_of(model, "linear_qkv")
    with torch.no_grad():
        adapter.b.normal_()
        x = torch.randn(16, 2, 32)
        before = linear(F.rms_norm(x, (32,), torch.full((32,), 1.5), 1e-5))[0]
        linear.layer_norm_weight, linear.eps = torch.full((32,), 1.5), 1e-5
        base = F.linear(x, linear.weight)  # of this stand-in; the engine's norms it first
        added = linear(x)[0] - base
        linear.layer_norm_weight = None
        normed = F.rms_norm(x, (32,), torch.full((32,), 1.5), 1e-5)
    assert torch.allclose(added, before - F.linear(normed, linear.weight), atol=1e-5)


def test_numbers_of_adapters_are_counted(model):
    lora = LoRAConfig(lora_rank=5, lora_targets=("linear_qkv", "linear_fc2"))
    add_lora([model], MODEL, lora, None, seed=1)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == lora.num_parameters(MODEL)
    whole = MODEL.train_flops_per_token(16, 64)
    assert 2 / 3 * whole < lora.train_flops_per_token(MODEL, 16, 64) < whole
    assert LoRAConfig().train_flops_per_token(MODEL, 16, 64) == whole


def test_rows_to_train_are_specials_and_codes(tmp_path):
    vocab = make_vocab(tmp_path)
    first, stop = added_rows(vocab)
    assert (first, stop) == (257, vocab.code_offset + NUM_CODES)
    assert stop == vocab.size
    assert get_family(MODEL).architecture == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"lora_rank": 0}, "--lora-rank is 0"),
        ({"lora_rank": 4, "lora_alpha": 0.0}, "--lora-alpha"),
        ({"lora_rank": 4, "lora_dropout": 1.0}, "--lora-dropout"),
        ({"lora_rank": 4, "lora_targets": ()}, "--lora-targets"),
        ({"lora_rslora": True}, "--lora-rslora belongs to --lora-rank"),
        ({"lora_train_embedding": True}, "--lora-train-embedding belongs to --lora-rank"),
        ({"lora_dropout": 0.1}, "--lora-dropout belongs to --lora-rank"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        LoRAConfig(**settings)
