"""Base-model families: how each names its tensors in Hugging Face's layout.

A family is one entry of `FAMILIES`, under the model type of its config.json. To add one, list the
tensors of a layer as `Rule`s and say which settings it fixes; import and export follow from that.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from .config import ModelConfig

EMBEDDING = "embedding.word_embeddings.weight"
FINAL_NORM = "decoder.final_layernorm.weight"
OUTPUT = "output_layer.weight"
"""Megatron's keys outside the layers."""

Fusion = Literal["copy", "qkv", "gate_up"]


@dataclass(frozen=True)
class Rule:
    """One of Megatron's tensors and the Hugging Face tensors that hold the same numbers."""

    megatron: str
    """Key within a layer, as torch_dist checkpoints name it."""
    huggingface: tuple[str, ...]
    """Names within a layer, in the order the tensor is split."""
    kind: Fusion = "copy"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A layout that transformers can load."""

    architecture: str
    """transformers' class of the language model."""
    layer: tuple[Rule, ...]
    embedding: str = "model.embed_tokens.weight"
    final_norm: str = "model.norm.weight"
    output: str = "lm_head.weight"
    layer_prefix: str = "model.layers.{}."
    traits: dict[str, Any]
    """Fields of `ModelConfig` that the layout fixes."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of config.json that must have this value, where they are given."""
    partial_rotary: bool = False
    """Whether config.json says what share of each head is rotated."""


def export_obstacle(model: ModelConfig) -> str | None:
    """One line that says why checkpoints of this model cannot be exported, None if they can.

    Raises:
        ConfigError: the family's name is not known at all.
    """
    family = _find_family(model)
    try:
        _require_expressible(family, model)
    except ConfigError as error:
        return f"note: checkpoints of this run can be trained on, but not exported: {error}"
    return None


def get_family(model: ModelConfig) -> Family:
    """The family a model belongs to.

    Raises:
        ConfigError: unknown, or it cannot express the model.
    """
    family = _find_family(model)
    _require_expressible(family, model)
    return family


def _find_family(model: ModelConfig) -> Family:
    if model.family not in FAMILIES:
        raise ConfigError(
            f"--family {model.family!r} is unknown; expected one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[model.family]


def _require_expressible(family: Family, model: ModelConfig) -> None:
    fixed = dict(family.traits)
    if not family.partial_rotary:
        fixed["rotary_percent"] = 1.0
    for name, value in fixed.items():
        if getattr(model, name) != value:
            raise ConfigError(
                f"the {model.family} layout cannot express --{name.replace('_', '-')} "
                f"{getattr(model, name)}; it stands for {value}"
            )


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
    width, size, groups = model.hidden_size, model.head_size, model.num_query_groups
    qkv = (model.num_attention_heads + 2 * groups) * size
    shapes: dict[str, tuple[int, ...]] = {
        "self_attention.linear_qkv.layer_norm_weight": (width,),
        "self_attention.linear_qkv.weight": (qkv, width),
        "self_attention.linear_qkv.bias": (qkv,),
        "self_attention.q_layernorm.weight": (size,),
        "self_attention.k_layernorm.weight": (size,),
        "self_attention.q_layernorm.joint_weight": (model.num_attention_heads * size,),
        "self_attention.k_layernorm.joint_weight": (groups * size,),
        "self_attn_bda.norm.weight": (width,),
        "mlp_bda.norm.weight": (width,),
        "self_attention.linear_proj.weight": (width, model.num_attention_heads * size),
        "mlp.linear_fc1.layer_norm_weight": (width,),
        "mlp.linear_fc1.weight": (2 * model.ffn_hidden_size, width),
        "mlp.linear_fc2.weight": (width, model.ffn_hidden_size),
    }
    return shapes[rule.megatron]


def shapes_in_hf(rule: Rule, model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the Hugging Face tensors of a rule."""
    parts = split(rule, torch.empty(shape_in_megatron(rule, model), device="meta"), model)
    return {name: tuple(part.shape) for name, part in zip(rule.huggingface, parts, strict=True)}


def hf_shapes(model: ModelConfig, rows: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a Hugging Face folder whose embedding has `rows`.

    Raises:
        ConfigError: the family cannot express the model.
    """
    family, width = get_family(model), model.hidden_size
    shapes: dict[str, tuple[int, ...]] = {family.embedding: (rows, width)}
    for index in range(model.num_layers):
        prefix = family.layer_prefix.format(index)
        for rule in family.layer:
            shapes |= {prefix + name: shape for name, shape in shapes_in_hf(rule, model).items()}
    shapes[family.final_norm] = (width,)
    if model.untie_embeddings_and_output_weights:
        shapes[family.output] = (rows, width)
    return shapes


def tensor_parallel_axis(rule: Rule) -> int | None:
    """The axis along which ranks share a rule's tensor, None where each has the whole."""
    if rule.megatron.endswith(("linear_proj.weight", "linear_fc2.weight")):
        return 1
    divided = ("linear_qkv.weight", "linear_qkv.bias", "linear_fc1.weight", ".joint_weight")
    if rule.megatron.endswith(divided):
        return 0
    return None


_QKV_NAMES = tuple(f"self_attn.{name}_proj.weight" for name in "qkv")
_QKV = Rule("self_attention.linear_qkv.weight", _QKV_NAMES, "qkv")
_PROJ = Rule("self_attention.linear_proj.weight", ("self_attn.o_proj.weight",))
_BEFORE = (
    Rule("self_attention.linear_qkv.layer_norm_weight", ("input_layernorm.weight",)),
    _QKV,
    _PROJ,
    Rule("mlp.linear_fc1.layer_norm_weight", ("post_attention_layernorm.weight",)),
)
_GATE_UP = Rule("mlp.linear_fc1.weight", ("mlp.gate_proj.weight", "mlp.up_proj.weight"), "gate_up")
_FUSED_GATE_UP = Rule("mlp.linear_fc1.weight", ("mlp.gate_up_proj.weight",))
_DOWN = Rule("mlp.linear_fc2.weight", ("mlp.down_proj.weight",))
_QKV_BIAS = Rule(
    "self_attention.linear_qkv.bias", tuple(f"self_attn.{name}_proj.bias" for name in "qkv"), "qkv"
)
_QK_NORMS = (
    Rule("self_attention.q_layernorm.weight", ("self_attn.q_norm.weight",)),
    Rule("self_attention.k_layernorm.weight", ("self_attn.k_norm.weight",)),
)
_BEHIND = (
    Rule("self_attn_bda.norm.weight", ("post_attention_layernorm.weight",)),
    Rule("mlp_bda.norm.weight", ("post_feedforward_layernorm.weight",)),
    Rule("self_attention.q_layernorm.joint_weight", ("self_attn.q_norm.weight",)),
    Rule("self_attention.k_layernorm.joint_weight", ("self_attn.k_norm.weight",)),
)

FAMILIES: dict[str, Family] = {
    "llama": Family(
        architecture="LlamaForCausalLM",
        layer=(*_BEFORE, _GATE_UP, _DOWN),
        traits={"add_qkv_bias": False, "qk_layernorm": False, "rotary_interleaved": False},
        settings={"attention_bias": False, "mlp_bias": False},
    ),
    "mistral": Family(
        architecture="MistralForCausalLM",
        layer=(*_BEFORE, _GATE_UP, _DOWN),
        traits={"add_qkv_bias": False, "qk_layernorm": False, "rotary_interleaved": False},
        settings={"sliding_window": None},
    ),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        layer=(*_BEFORE, _QKV_BIAS, _GATE_UP, _DOWN),
        traits={"add_qkv_bias": True, "qk_layernorm": False, "rotary_interleaved": False},
        settings={"use_sliding_window": False},
    ),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        layer=(*_BEFORE, *_QK_NORMS, _GATE_UP, _DOWN),
        traits={"add_qkv_bias": False, "qk_layernorm": True, "rotary_interleaved": False},
        settings={"attention_bias": False, "use_sliding_window": False},
    ),
    "olmo2": Family(
        architecture="Olmo2ForCausalLM",
        layer=(_QKV, _PROJ, _GATE_UP, _DOWN, *_BEHIND),
        traits={"add_qkv_bias": False, "qk_layernorm": True, "rotary_interleaved": False},
        settings={"attention_bias": False},
    ),
    "glm": Family(
        architecture="GlmForCausalLM",
        layer=(*_BEFORE, _QKV_BIAS, _FUSED_GATE_UP, _DOWN),
        traits={"add_qkv_bias": True, "qk_layernorm": False, "rotary_interleaved": True},
        settings={"attention_bias": True},
        partial_rotary=True,
    ),
}
