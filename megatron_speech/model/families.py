"""Base-model families: how each names its tensors and its settings in Hugging Face's layout.

A family is one entry of `FAMILIES`. To add one, list the tensors of a layer as `Rule`s and say
how its config class is filled; export (and import) follow from that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from .config import ModelConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Kind = Literal["copy", "qkv", "gate_up"]


@dataclass(frozen=True)
class Rule:
    """One of Megatron's tensors and the Hugging Face tensors that hold the same numbers."""

    megatron: str
    """Key within a layer, as torch_dist checkpoints name it."""
    huggingface: tuple[str, ...]
    """Names within a layer, in the order the tensor is split."""
    kind: Kind = "copy"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A layout that transformers can load."""

    layer: tuple[Rule, ...]
    embedding: str = "model.embed_tokens.weight"
    final_norm: str = "model.norm.weight"
    output: str = "lm_head.weight"
    layer_prefix: str = "model.layers.{}."
    config: Callable[[ModelConfig, int], "PretrainedConfig"]
    """From the model and the number of vocabulary rows."""
    refuses: Callable[[ModelConfig], str | None]
    """What of the model the family cannot express, None if nothing."""


def export_obstacle(model: ModelConfig) -> str | None:
    """One line that says why checkpoints of this model cannot be exported yet, None if they can.

    Raises:
        ConfigError: the family's name is not known at all.
    """
    if model.family not in FAMILIES and model.family not in WITHOUT_LAYOUT:
        raise ConfigError(
            f"--family {model.family!r} is unknown; expected one of "
            f"{', '.join([*FAMILIES, *WITHOUT_LAYOUT])}"
        )
    try:
        get_family(model)
    except ConfigError as error:
        return f"note: checkpoints of this run can be trained on, but not exported yet: {error}"
    return None


def get_family(model: ModelConfig) -> Family:
    """The family a model belongs to.

    Raises:
        ConfigError: unknown, or it cannot express the model.
    """
    if model.family not in FAMILIES:
        raise ConfigError(
            f"--family {model.family!r} has no Hugging Face layout here; known: "
            f"{', '.join(FAMILIES)}"
        )
    family = FAMILIES[model.family]
    complaint = family.refuses(model)
    if complaint:
        raise ConfigError(f"the {model.family} layout cannot express {complaint}")
    return family


def split(rule: Rule, tensor: Tensor, model: ModelConfig) -> list[Tensor]:
    """Megatron's tensor of one layer as Hugging Face's.

    Megatron keeps, for each query group, its query heads, its key head and its value head
    together; and stacks gate over up.
    """
    if rule.kind == "copy":
        return [tensor]
    if rule.kind == "gate_up":
        return list(tensor.chunk(2))
    groups, size = model.num_query_groups, model.head_size
    heads = model.num_attention_heads // groups
    by_group = tensor.unflatten(0, (groups, heads + 2, size))
    return [part.flatten(0, 2) for part in by_group.split([heads, 1, 1], dim=1)]


def merge(rule: Rule, tensors: list[Tensor], model: ModelConfig) -> Tensor:
    """The inverse of `split`."""
    if rule.kind == "copy":
        return tensors[0]
    if rule.kind == "gate_up":
        return torch.cat(tensors)
    groups, size = model.num_query_groups, model.head_size
    parts = [tensor.unflatten(0, (groups, -1, size)) for tensor in tensors]
    return torch.cat(parts, dim=1).flatten(0, 2)


def shape_in_megatron(rule: Rule, model: ModelConfig) -> tuple[int, ...]:
    """Shape of a rule's tensor in one layer."""
    width, size = model.hidden_size, model.head_size
    qkv = (model.num_attention_heads + 2 * model.num_query_groups) * size
    shapes: dict[str, tuple[int, ...]] = {
        "self_attention.linear_qkv.layer_norm_weight": (width,),
        "self_attention.linear_qkv.weight": (qkv, width),
        "self_attention.linear_qkv.bias": (qkv,),
        "self_attention.q_layernorm.weight": (size,),
        "self_attention.k_layernorm.weight": (size,),
        "self_attention.linear_proj.weight": (width, model.num_attention_heads * size),
        "mlp.linear_fc1.layer_norm_weight": (width,),
        "mlp.linear_fc1.weight": (2 * model.ffn_hidden_size, width),
        "mlp.linear_fc2.weight": (width, model.ffn_hidden_size),
    }
    return shapes[rule.megatron]


def _common_settings(model: ModelConfig, vocab_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.head_size,
        "max_position_embeddings": model.max_position_embeddings,
        "rms_norm_eps": model.norm_epsilon,
        "hidden_act": "silu",
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(model.rotary_base)},
    }


def _llama_config(model: ModelConfig, vocab_size: int) -> "PretrainedConfig":
    from transformers import LlamaConfig

    return LlamaConfig(**_common_settings(model, vocab_size), architectures=["LlamaForCausalLM"])


def _llama_refuses(model: ModelConfig) -> str | None:
    if model.add_qkv_bias:
        return "--add-qkv-bias"
    if model.qk_layernorm:
        return "--qk-layernorm"
    if model.rotary_percent != 1.0 or model.rotary_interleaved:
        return "partial or interleaved rotary positions"
    return None


_LLAMA_LAYER = (
    Rule("self_attention.linear_qkv.layer_norm_weight", ("input_layernorm.weight",)),
    Rule(
        "self_attention.linear_qkv.weight",
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        "qkv",
    ),
    Rule("self_attention.linear_proj.weight", ("self_attn.o_proj.weight",)),
    Rule("mlp.linear_fc1.layer_norm_weight", ("post_attention_layernorm.weight",)),
    Rule("mlp.linear_fc1.weight", ("mlp.gate_proj.weight", "mlp.up_proj.weight"), "gate_up"),
    Rule("mlp.linear_fc2.weight", ("mlp.down_proj.weight",)),
)

FAMILIES: dict[str, Family] = {
    "llama": Family(layer=_LLAMA_LAYER, config=_llama_config, refuses=_llama_refuses),
}
WITHOUT_LAYOUT = ("glm",)
"""Families that can be trained, but have no export here yet."""
