"""Small random models in the layout of the released GLM-4 models."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GlmConfig, GlmForCausalLM

from tests.text.released_tokenizer import NAMED, lines, train_ranks, write_tokenizer

LAYERS, WIDTH, HEADS, GROUPS, SIZE, INNER = 2, 32, 4, 2, 16, 48


def write_released(
    folder: Path,
    ranks: Sequence[bytes] | None = None,
    codes: int = 0,
    rows: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    files: int = 2,
    **settings: object,
) -> dict[str, Tensor]:
    """Config, weights in `files` safetensors files with their index, and tokenizer of a random
    model; returns the weights. Without `rows` the embedding has the next multiple of 64."""
    ranks = train_ranks(lines(200, seed=4), 400) if ranks is None else ranks
    write_tokenizer(folder, ranks, NAMED if codes else NAMED[:14], codes)
    tokens = len(ranks) + (1024 + codes if codes else 14)
    rows = rows or -(-tokens // 64) * 64
    end = len(ranks)
    config: dict[str, object] = {
        "_name_or_path": "THUDM/glm-4-voice-9b",
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "architectures": ["ChatGLMModel"],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
        },
        "bias_dropout_fusion": True,
        "eos_token_id": [end, end + 7, end + 9],
        "ffn_hidden_size": INNER,
        "hidden_dropout": 0.0,
        "hidden_size": WIDTH,
        "kv_channels": SIZE,
        "layernorm_epsilon": 3.90625e-08,
        "model_type": "chatglm",
        "multi_query_attention": True,
        "multi_query_group_num": GROUPS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_layers": LAYERS,
        "original_rope": True,
        "pad_token_id": end,
        "padded_vocab_size": rows,
        "post_layer_norm": True,
        "rmsnorm": True,
        "rope_ratio": 1,
        "seq_length": 256,
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "vocab_size": rows,
    }
    config |= settings
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "modeling_chatglm.py").write_text("raise SystemExit('code of the folder was run')")
    ids = {"eos_token_id": [end, end + 7, end + 9], "pad_token_id": end}
    (folder / "generation_config.json").write_text(json.dumps(ids, indent=2))
    tensors = {n: t if n.endswith("inv_freq") else t.to(dtype) for n, t in _weights(rows).items()}
    _save(folder, tensors, files)
    return tensors


def _weights(rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int, mean: float = 0.0, std: float = 0.15) -> Tensor:
        return mean + std * torch.randn(shape, generator=generator)

    tensors = {
        "transformer.embedding.word_embeddings.weight": draw(rows, WIDTH),
        "transformer.encoder.final_layernorm.weight": draw(WIDTH, mean=1.0),
        "transformer.output_layer.weight": draw(rows, WIDTH),
        "transformer.rotary_pos_emb.inv_freq": 10_000.0 ** -(torch.arange(0, 8, 2) / 8),
    }
    for index in range(LAYERS):
        qkv = (HEADS + 2 * GROUPS) * SIZE
        layer = {
            "input_layernorm.weight": draw(WIDTH, mean=1.0),
            "self_attention.query_key_value.weight": draw(qkv, WIDTH),
            "self_attention.query_key_value.bias": draw(qkv),
            "self_attention.dense.weight": draw(WIDTH, HEADS * SIZE),
            "post_attention_layernorm.weight": draw(WIDTH, mean=1.0),
            "mlp.dense_h_to_4h.weight": draw(2 * INNER, WIDTH),
            "mlp.dense_4h_to_h.weight": draw(WIDTH, INNER),
        }
        prefix = f"transformer.encoder.layers.{index}."
        tensors |= {prefix + name: tensor for name, tensor in layer.items()}
    return tensors


def _save(folder: Path, tensors: dict[str, Tensor], files: int) -> None:
    """As transformers' save_pretrained does, in shards that end anywhere in a layer."""
    names = sorted(tensors)
    if files == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return
    weight_map = {}
    for number in range(files):
        file = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        part = names[number * len(names) // files : (number + 1) * len(names) // files]
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def as_glm(tensors: dict[str, Tensor], config: dict, dtype: torch.dtype) -> GlmForCausalLM:
    """transformers' own glm with the weights under its names: who checks knows the layout too."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.endswith("inv_freq"):
            continue
        for old, new in (
            ("transformer.embedding.word_embeddings", "model.embed_tokens"),
            ("transformer.encoder.final_layernorm", "model.norm"),
            ("transformer.output_layer", "lm_head"),
            ("transformer.encoder.layers", "model.layers"),
            ("self_attention.dense", "self_attn.o_proj"),
            ("mlp.dense_h_to_4h", "mlp.gate_up_proj"),
            ("mlp.dense_4h_to_h", "mlp.down_proj"),
        ):
            name = name.replace(old, new)
        if "query_key_value" not in name:
            renamed[name] = tensor
            continue
        cut = tensor.split([HEADS * SIZE, GROUPS * SIZE, GROUPS * SIZE])
        for letter, part in zip("qkv", cut, strict=True):
            renamed[name.replace("self_attention.query_key_value", f"self_attn.{letter}_proj")] = (
                part
            )
    described = GlmConfig(
        vocab_size=config["padded_vocab_size"],
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        head_dim=SIZE,
        rms_norm_eps=config["layernorm_epsilon"],
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0 * config["rope_ratio"],
            "partial_rotary_factor": 0.5,
        },
        attention_bias=True,
        pad_token_id=None,
        eos_token_id=None,
    )
    model = GlmForCausalLM(described).to(dtype).eval()
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in renamed.items()})
    return model
