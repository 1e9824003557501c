"""The layout of the released GLM-4 models, `chatglm`, read and written as transformers' `glm`.

glm-4-9b and glm-4-voice-9b lie on the hub in a layout that only code of their own can load there.
The model is the same as `glm`: other names for settings and tensors, and query, key and value
projections in one tensor. Nothing of a folder's code is needed here, or run.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .config import ModelConfig
from .families import hf_shapes
from .safetensors_folder import Entry, SafetensorsFolder
from .safetensors_writer import Output

MODEL_TYPE = "chatglm"
_SETTINGS = {
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "head_dim": "kv_channels",
    "max_position_embeddings": "seq_length",
    "rms_norm_eps": "layernorm_epsilon",
    "vocab_size": "padded_vocab_size",
}
"""glm's names of settings, and chatglm's of the same."""
_FIXED = {
    "rmsnorm": (True, True),
    "post_layer_norm": (True, True),
    "apply_residual_connection_post_layernorm": (False, False),
    "add_bias_linear": (False, False),
    "add_qkv_bias": (True, False),
    "original_rope": (True, True),
    "tie_word_embeddings": (False, False),
    "quantization_bit": (0, 0),
    "pre_seq_len": (None, None),
}
"""Settings that must have the first value, and what they are where they are not given."""
_ROTARY_BASE, _ROTARY_SHARE = 10_000, 0.5
_OUTSIDE = {
    "transformer.embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "transformer.encoder.final_layernorm.weight": "model.norm.weight",
    "transformer.output_layer.weight": "lm_head.weight",
}
_IN_LAYER = {
    "input_layernorm.weight": ("input_layernorm.weight",),
    "self_attention.query_key_value.weight": tuple(f"self_attn.{n}_proj.weight" for n in "qkv"),
    "self_attention.query_key_value.bias": tuple(f"self_attn.{n}_proj.bias" for n in "qkv"),
    "self_attention.dense.weight": ("self_attn.o_proj.weight",),
    "post_attention_layernorm.weight": ("post_attention_layernorm.weight",),
    "mlp.dense_h_to_4h.weight": ("mlp.gate_up_proj.weight",),
    "mlp.dense_4h_to_h.weight": ("mlp.down_proj.weight",),
}


def glm_settings(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """config.json of a chatglm model as that of a glm model; `path` is named in errors.

    Raises:
        CheckpointError: a setting is missing, or asks for another model than GLM-4.
    """
    for name, (wanted, default) in _FIXED.items():
        if (found := settings.get(name, default)) != wanted:
            raise CheckpointError(
                f"{path} sets {name} to {found!r}, but GLM-4 has {wanted!r}; another chatglm model "
                "cannot be trained faithfully here"
            )
    missing = [name for name in _SETTINGS.values() if name not in settings]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; download the file again")
    groups = settings["num_attention_heads"]
    if settings.get("multi_query_attention", False):
        groups = settings.get("multi_query_group_num", 1)
    return {
        "model_type": "glm",
        **{glm: settings[chatglm] for glm, chatglm in _SETTINGS.items()},
        "num_key_value_heads": groups,
        "attention_bias": True,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": float(_ROTARY_BASE * settings.get("rope_ratio", 1)),
            "partial_rotary_factor": _ROTARY_SHARE,
        },
        "bos_token_id": None,
        "eos_token_id": settings.get("eos_token_id"),
        "pad_token_id": settings.get("pad_token_id"),
    }


def released_names(model: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Every tensor of a chatglm folder, and the tensors of glm that are its rows."""
    names: dict[str, tuple[str, ...]] = {name: (glm,) for name, glm in _OUTSIDE.items()}
    for index in range(model.num_layers):
        names |= {
            f"transformer.encoder.layers.{index}.{name}": tuple(
                f"model.layers.{index}.{part}" for part in glm
            )
            for name, glm in _IN_LAYER.items()
        }
    return names


def open_chatglm(folder: Path, model: ModelConfig, rows: int) -> SafetensorsFolder:
    """The tensors of a chatglm folder under the names and in the pieces of glm; `rows` of its
    embedding.

    Raises:
        CheckpointError: as `SafetensorsFolder`, or the tensors are not those of the model.
    """
    source = SafetensorsFolder(folder)
    if model.num_layers > len(source.entries):
        raise CheckpointError(
            f"{folder} holds {len(source.entries)} tensors, but its config.json describes "
            f"{model.num_layers} layers; config.json and weights are of different models"
        )
    shapes = hf_shapes(model, rows)
    names = released_names(model)
    source.require({name: _joined([shapes[g] for g in glm]) for name, glm in names.items()})
    entries: dict[str, Entry] = {}
    for name, glm in names.items():
        first = 0
        for part in glm:
            entries[part] = replace(source.entries[name], shape=shapes[part], first_row=first)
            first += shapes[part][0]
    source.entries = entries
    return source


def _joined(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def chatglm_shards(
    outputs: Iterable[Output], model: ModelConfig, like: Path, dtype: torch.dtype
) -> dict[str, list[Output]]:
    """The tensors of a glm export as those of chatglm, file by file as the folder `like` has them.

    What transformers' glm does not store, rotary frequencies, is taken from there.

    Raises:
        CheckpointError: `like` has other tensors, or of another type than `dtype`.
    """
    glm = {output.name: output for output in outputs}
    parts = {name: [glm[part] for part in found] for name, found in released_names(model).items()}
    joined = {
        name: Output(name, _joined([part.shape for part in found]), partial(_join, found))
        for name, found in parts.items()
    }
    released, buffers = SafetensorsFolder(like), SafetensorsFolder(like)
    released.require({name: output.shape for name, output in joined.items()})
    if (stored := released.dtype()) != dtype:
        raise CheckpointError(f"the checkpoint is {dtype}, but {like} is {stored}; train in that")
    for name in buffers.entries.keys() - joined.keys():
        entry = buffers.entries[name]
        joined[name] = Output(name, entry.shape, partial(buffers.read, name), entry.dtype)
    files = buffers.names_by_file()
    return {file: [joined[name] for name in names] for file, names in files.items()}


def _join(parts: list[Output]) -> Tensor:
    return torch.cat([part.read() for part in parts])
