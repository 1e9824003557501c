"""The released tokenizer's forward pass once more, in plain torch, from its tensors by name.

Written for the tests alone and as naively as can be: nothing of the package is used.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import conv1d, gelu, layer_norm, linear, pad
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

SMALL: dict[str, Any] = {
    "d_model": 48,
    "encoder_layers": 4,
    "encoder_attention_heads": 3,
    "encoder_ffn_dim": 96,
    "decoder_layers": 1,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 96,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
    "max_target_positions": 32,
    "vocab_size": 80,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
    "init_std": 0.2,
}
"""Fields of WhisperConfig."""

RELEASED: dict[str, Any] = {
    "architectures": ["WhisperVQEncoder"],
    "pooling_kernel_size": 4,
    "pooling_type": "avg",
    "pooling_position": 2,
    "quantize_vocab_size": 96,
    "quantize_position": 2,
    "quantize_commit_coefficient": 0.25,
    "quantize_loss_scale": 10.0,
    "quantize_ema_decay": 0.99,
    "quantize_restart_interval": 100,
    "quantize_encoder_only": False,
    "quantize_causal_encoder": False,
    "quantize_causal_block_size": 200,
    "encoder_causal_attention": False,
    "encoder_causal_convolution": True,
    "skip_language_detection": True,
}
"""What the released config has beyond WhisperConfig."""


def make_released(folder: Path, clips: list[np.ndarray], **changes: Any) -> dict[str, Any]:
    """Write config.json and return it with "tensors": random weights, whole model, all names.

    The codebook holds hidden vectors of the clips, so that many codes occur.
    """
    torch.manual_seed(1)
    known = {name: changes.pop(name) for name in list(changes) if name in SMALL}
    whisper = WhisperModel(WhisperConfig(**{**SMALL, **known})).eval()
    config = {**whisper.config.to_dict(), **RELEASED, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {f"model.{name}": v.detach().clone() for name, v in whisper.state_dict().items()}
    for name in ("self_attn_layer_norm", "final_layer_norm"):  # all-ones scales hide mistakes
        for layer in range(config["encoder_layers"]):
            tensors[f"model.encoder.layers.{layer}.{name}.weight"].uniform_(0.5, 1.5)
    hidden, mask = hidden_vectors(tensors, config, clips)
    vectors = hidden[mask]
    size = config["quantize_vocab_size"]
    codebook = vectors[torch.randperm(len(vectors))[:size]].clone()
    assert len(codebook) == size
    codebook += 0.1 * codebook.std() * torch.randn_like(codebook)
    rows = -(-config["max_source_positions"] // (config["pooling_kernel_size"] or 1))
    tensors |= {
        "model.encoder.codebook.weight": codebook,
        "model.encoder.embed_positions2.weight": torch.randn(rows, config["d_model"]),
        "model.encoder.ema_count": torch.ones(size),
        "model.encoder.ema_weight": codebook.clone(),
        "proj_out.weight": tensors["model.decoder.embed_tokens.weight"].clone(),
    }
    return {"config": config, "tensors": tensors}


def encoder_only(tensors: dict[str, torch.Tensor], keep_layers: int, prefix: str) -> dict:
    """What an encoder-only file holds: no decoder, no upper layers, no final norm."""
    kept = {}
    for name, value in tensors.items():
        short = name.removeprefix("model.encoder.")
        upper = short.startswith("layers.") and int(short.split(".")[1]) >= keep_layers
        if short != name and not upper and not short.startswith("layer_norm"):
            kept[prefix + short] = value.clone()
    return kept


def write_weights(folder: Path, tensors: dict[str, torch.Tensor], files: int = 1) -> None:
    """One safetensors file, or several with transformers' index."""
    if files == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    weight_map = {}
    for number in range(files):
        name = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[number::files]}
        save_file(part, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def released_codes(
    tensors: dict[str, torch.Tensor], config: dict[str, Any], clips: list[np.ndarray]
) -> list[np.ndarray]:
    """Codes of clips, all in one batch padded to the longest window: (codes, 2) each.

    The nearest code and, where fp32 cannot tell which of two is nearer, the other; else it again.
    """
    pieces = [
        (n, c[at : at + 480_000]) for n, c in enumerate(clips) for at in range(0, len(c), 480_000)
    ]
    hidden, mask = hidden_vectors(tensors, config, [piece for _, piece in pieces])
    codebook = tensors["model.encoder.codebook.weight"]
    distances = (
        hidden.square().sum(-1, keepdim=True) + codebook.square().sum(-1) - 2 * hidden @ codebook.T
    )
    nearest, codes = distances.topk(2, dim=-1, largest=False)
    rounding = 8 * torch.finfo(torch.float32).eps * hidden.square().sum(-1)
    told_apart = nearest[..., 1] - nearest[..., 0] > rounding
    codes[..., 1] = torch.where(told_apart, codes[..., 0], codes[..., 1])
    rows: list[list[list[int]]] = [[] for _ in clips]
    for (owner, _), row, kept in zip(pieces, codes, mask, strict=True):
        rows[owner] += row[kept].tolist()
    return [np.array(row) for row in rows]


@torch.no_grad()
def hidden_vectors(
    tensors: dict[str, torch.Tensor], config: dict[str, Any], clips: list[np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors at the quantizer (B, T, D) and which are no padding (B, T)."""
    pool = config["pooling_kernel_size"] or 1
    extractor = WhisperFeatureExtractor(feature_size=config["num_mel_bins"])
    features = extractor(
        clips,
        sampling_rate=16_000,
        padding="longest",
        pad_to_multiple_of=2 * pool * 160,
        return_attention_mask=True,
        return_tensors="pt",
    )
    weights = {name.removeprefix("model.encoder."): value for name, value in tensors.items()}
    sides = (2, 0) if config["encoder_causal_convolution"] else (1, 1)
    x = pad(features["input_features"], sides)
    x = gelu(conv1d(x, weights["conv1.weight"], weights["conv1.bias"]))
    x = gelu(conv1d(pad(x, sides), weights["conv2.weight"], weights["conv2.bias"], stride=2))
    x = x.transpose(1, 2)
    x = x + weights["embed_positions.weight"][: x.shape[1]]
    mask = features["attention_mask"].bool()[:, ::2]
    block = config["quantize_causal_block_size"]
    for number in range(config["quantize_position"]):
        x = encoder_layer(x, mask, block, weights, f"layers.{number}.", config)
        if number + 1 == config["pooling_position"] and pool > 1:
            groups = x.unflatten(1, (-1, pool))
            x = groups.mean(2) if config["pooling_type"] == "avg" else groups.max(2).values
            mask, block = mask[:, ::pool], block and block // pool
    return x, mask


def encoder_layer(x, mask, block, weights, prefix, config):
    """Pre-norm attention and feed-forward, one head and one query block at a time."""

    def part(name, value):
        bias = weights.get(f"{prefix}{name}.bias")
        return linear(value, weights[f"{prefix}{name}.weight"], bias)

    def norm(name, value):
        scale, shift = weights[f"{prefix}{name}.weight"], weights[f"{prefix}{name}.bias"]
        return layer_norm(value, (value.shape[-1],), scale, shift)

    heads = config["encoder_attention_heads"]
    width = config["d_model"] // heads
    y = norm("self_attn_layer_norm", x)
    q, k, v = (part(f"self_attn.{letter}_proj", y) for letter in "qkv")
    length = x.shape[1]
    allowed = torch.zeros(len(x), length, length, dtype=torch.bool)
    for time in range(length):
        last = length if block is None else max(time + 1, (time // block + 1) * block)
        allowed[:, time, :last] = mask[:, :last]
    outputs = []
    for head in range(heads):
        part_of = slice(head * width, (head + 1) * width)
        scores = q[..., part_of] @ k[..., part_of].transpose(1, 2) / width**0.5
        scores = scores.masked_fill(~allowed, torch.finfo(torch.float32).min)
        outputs.append(scores.softmax(-1) @ v[..., part_of])
    x = x + part("self_attn.out_proj", torch.cat(outputs, -1))
    return x + part("fc2", gelu(part("fc1", norm("final_layer_norm", x))))
