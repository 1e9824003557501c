"""Shapes that cannot work are refused in words; recipes have the sizes they claim."""

import pytest

from megatron_speech.errors import ConfigError
from megatron_speech.model.config import ModelConfig
from megatron_speech.recipes import lm
from megatron_speech.recipes.lm_check import check_settings
from megatron_speech.training.batch_config import BatchConfig
from megatron_speech.training.installed import Installed


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (ModelConfig, "num_query_groups"),
        (ModelConfig, "num_layers"),
        (BatchConfig, "micro_batch_size"),
        (BatchConfig, "eval_iters"),
    ],
)
def test_sizes_are_at_least_one(settings, name):
    with pytest.raises(ConfigError, match="at least 1"):
        settings(**{name: 0})


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="--kv-channels"):
        ModelConfig(hidden_size=100, num_attention_heads=3, num_query_groups=3)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("lm-debug", 3.5), ("t2t-debug", 2.2), ("lm-1.5b", 1550), ("lm-9b", 9530)],
)
def test_recipes_have_the_size_they_claim(name, millions):
    vocabulary = 168_960 if name.endswith("b") else 2048
    config = lm.RECIPES[name]()
    found = config.model.num_parameters(vocabulary) / 1e6
    assert found == pytest.approx(millions, rel=0.03)
    check_settings(config, vocabulary, 8 if name.endswith("b") else 1, Installed())


def test_flops_of_a_token_are_those_of_the_paper_s_model():
    """9.53B parameters at 8,192 tokens, attention counted causally: 61.1 GFLOP."""
    model = lm.RECIPES["lm-9b"]().model
    assert model.train_flops_per_token(8192, 168_960) == pytest.approx(61.15e9, rel=1e-3)
    products = 6 * (model.num_parameters(168_960) - 168_960 * model.hidden_size)
    assert model.train_flops_per_token(0, 168_960) == pytest.approx(products, rel=1e-3)


def test_names_of_settings_are_unique_across_sections():
    config = lm.lm_debug()
    names = [name for section in vars(config).values() for name in vars(section)]
    assert len(names) == len(set(names))
