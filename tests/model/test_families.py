"""Splitting and merging of tensors between the two layouts."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_speech.errors import ConfigError
from megatron_speech.model.config import ModelConfig
from megatron_speech.model.families import FAMILIES, get_family, merge, shape_in_megatron, split
from megatron_speech.recipes import lm


@given(
    groups=st.integers(1, 4),
    heads_per_group=st.integers(1, 4),
    size=st.integers(1, 5),
    ffn=st.integers(1, 7),
)
def test_merge_undoes_split(groups, heads_per_group, size, ffn):
    model = ModelConfig(
        hidden_size=12,
        ffn_hidden_size=ffn,
        num_attention_heads=groups * heads_per_group,
        num_query_groups=groups,
        kv_channels=size,
    )
    for family in FAMILIES.values():
        for rule in family.layer:
            tensor = torch.rand(shape_in_megatron(rule, model))
            parts = split(rule, tensor, model)
            assert len(parts) == len(rule.huggingface)
            assert torch.equal(merge(rule, parts, model), tensor)


def test_a_model_the_layout_cannot_express_is_refused():
    with pytest.raises(ConfigError, match="--add-qkv-bias"):
        get_family(ModelConfig(add_qkv_bias=True))
    with pytest.raises(ConfigError, match="rotary"):
        get_family(ModelConfig(rotary_percent=0.5))
    with pytest.raises(ConfigError, match="llama"):
        get_family(replace(lm.lm_debug().model, family="unheard-of"))
