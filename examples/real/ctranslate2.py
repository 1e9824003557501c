"""A Whisper in CTranslate2's layout, as faster-whisper reads it, becomes a Hugging Face folder.

CTranslate2's model.bin (its `ModelSpec`, version 6) is little-endian: version, name and revision of
the specification, the number of variables, and for each its name, shape, kind of number and bytes;
then pairs of names for what is stored once. A name is its length in 16 bits and as many bytes, the
last one 0. Weights are those of the released model; query, key and value of a layer are stacked.
"""

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from megatron_speech.errors import DataError
from megatron_speech.io.files import atomic_path, write_json

_LAYER = re.compile(r"layer_(?P<layer>\d+)/(?P<module>.+)")
_VERSION = 6
_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_TIMESTAMPS = 1501  # 0 to 30 s in steps of 20 ms
_MULTILINGUAL = 51865  # tokens, with those of times; English-only models have one fewer
_HEADS_SIZE = 64  # of every released Whisper
_END, _START = "<|endoftext|>", "<|startoftranscript|>"


class _Reader:
    def __init__(self, content: bytes):
        self._content, self._at = memoryview(content), 0

    def number(self, form: str) -> int:
        return struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]

    def name(self) -> str:
        return bytes(self.take(self.number("H"))).rstrip(b"\0").decode("ascii", "replace")

    def take(self, size: int) -> memoryview:
        if self._at + size > len(self._content):
            raise DataError(
                f"model.bin is cut short: {len(self._content):,} bytes, more are announced"
            )
        self._at += size
        return self._content[self._at - size : self._at]


def read_model_bin(content: bytes) -> dict[str, np.ndarray]:
    """Variables of a CTranslate2 model by name, in the numbers they are stored in.

    Raises:
        DataError: it is none, is cut short, of another version, or quantised to integers that
            are not understood here.
    """
    reader = _Reader(content)
    if (version := reader.number("I")) != _VERSION:
        raise DataError(f"model.bin is of CTranslate2's version {version}, expected {_VERSION}")
    specification, _ = reader.name(), reader.number("I")
    if specification != "WhisperSpec":
        raise DataError(f"model.bin is a {specification}, expected a WhisperSpec")
    variables = {}
    for _ in range(reader.number("I")):
        name = reader.name()
        shape = [reader.number("I") for _ in range(reader.number("B"))]
        kind, size = reader.number("B"), reader.number("I")
        if kind not in _DTYPES:
            raise DataError(f"model.bin: {name} is of kind {kind}, expected one of {[*_DTYPES]}")
        dtype = np.dtype(_DTYPES[kind])
        if size != math.prod(shape) * dtype.itemsize:
            raise DataError(f"model.bin: {name} of shape {shape}, {dtype}, has {size:,} bytes")
        variables[name] = np.frombuffer(reader.take(size), dtype).reshape(shape)
    for _ in range(reader.number("I")):
        alias, stored = reader.name(), reader.name()
        if stored not in variables:
            raise DataError(f"model.bin: {alias} is said to be {stored}, which is not there")
        variables[alias] = variables[stored]
    return variables


def whisper_weights(variables: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Weights under transformers' names, in fp32. The output layer is the token embedding's.

    Raises:
        DataError: a variable is there that no Whisper has.
    """
    weights = {}
    for name, values in variables.items():
        if values.ndim == 0 or name in ("decoder/projection/weight", "decoder/alignment_heads"):
            continue
        side, *inner, last = name.split("/")
        if not inner:
            raise DataError(f"model.bin: {name} belongs to no Whisper")
        kind = {"gamma": "weight", "beta": "bias", "encodings": "weight"}.get(last, last)
        for target, part in _targets(side, inner, values):
            if kind == "bias" and target.endswith("k_proj"):
                continue  # Whisper's keys have none; CTranslate2 stores zeros
            tensor = torch.from_numpy(np.array(part, np.float32))
            weights[f"model.{side}.{target}.{kind}"] = tensor
    return weights


def _targets(side: str, inner: list[str], values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Which modules of transformers a variable of `side` becomes, and with which rows."""
    outside = {
        "conv1": "conv1", "conv2": "conv2", "embeddings": "embed_tokens",
        "layer_norm": "layer_norm", "position_encodings": "embed_positions",
    }  # fmt: skip
    within = {
        "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attention/linear_1": ("self_attn.out_proj",),
        "self_attention/layer_norm": ("self_attn_layer_norm",),
        "attention/linear_0": ("encoder_attn.q_proj",),
        "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
        "attention/linear_2": ("encoder_attn.out_proj",),
        "attention/layer_norm": ("encoder_attn_layer_norm",),
        "ffn/linear_0": ("fc1",),
        "ffn/linear_1": ("fc2",),
        "ffn/layer_norm": ("final_layer_norm",),
    }
    place = "/".join(inner)
    if place in outside:
        return [(outside[place], values)]
    found = _LAYER.fullmatch(place)
    names = within.get(found["module"], ()) if found else ()
    if found is None or not names or len(values) % len(names):
        raise DataError(f"model.bin: {side}/{place} {values.shape} belongs to no Whisper")
    layer = f"layers.{found['layer']}"
    parts = np.split(values, len(names))
    return [(f"{layer}.{name}", part) for name, part in zip(names, parts, strict=True)]


def write_whisper(model_bin: bytes, config: bytes, tokenizer: bytes, folder: Path) -> None:
    """Write the Hugging Face folder of a Whisper from the files of its CTranslate2 folder.

    Raises:
        DataError: they are not what they are called.
    """
    weights = whisper_weights(read_model_bin(model_bin))
    ids = _write_tokenizer(tokenizer, weights["model.decoder.embed_tokens.weight"], folder)
    settings, end = json.loads(config), ids[_END]
    tokens = {
        "bos_token_id": end, "eos_token_id": end, "pad_token_id": end,
        "decoder_start_token_id": ids[_START], "suppress_tokens": settings["suppress_ids"],
        "begin_suppress_tokens": settings["suppress_ids_begin"],
    }  # fmt: skip
    write_json(folder / "config.json", tokens | _config(weights))
    write_json(folder / "generation_config.json", tokens | _generation_config(ids, settings))
    write_json(folder / "preprocessor_config.json", _features(weights))
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, {"format": "pt"})


def _write_tokenizer(content: bytes, embedding: torch.Tensor, folder: Path) -> dict[str, int]:
    """The tokenizer with tokens of times; all tokens with their ids."""
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    marks = [f"<|{n * 0.02:.2f}|>" for n in range(_TIMESTAMPS)]
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in marks])
    if tokenizer.get_vocab_size() != len(embedding):
        raise DataError(
            f"tokenizer.json has {tokenizer.get_vocab_size():,} tokens with those of times, and "
            f"the embedding {len(embedding):,} rows"
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "WhisperTokenizer", "model_max_length": 1024, "errors": "replace",
        "bos_token": _END, "eos_token": _END, "pad_token": _END, "unk_token": _END,
        "add_prefix_space": False, "clean_up_tokenization_spaces": False,
    })  # fmt: skip
    return tokenizer.get_vocab()


def _config(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    width, mels, _ = weights["model.encoder.conv1.weight"].shape
    config: dict[str, Any] = {
        "architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper",
        "is_encoder_decoder": True, "activation_function": "gelu", "dtype": "float32",
        "d_model": width, "num_mel_bins": mels, "scale_embedding": False,
        "vocab_size": len(weights["model.decoder.embed_tokens.weight"]),
        "max_source_positions": len(weights["model.encoder.embed_positions.weight"]),
        "max_target_positions": len(weights["model.decoder.embed_positions.weight"]),
    }  # fmt: skip
    for side in ("encoder", "decoder"):
        names = [name for name in weights if f"{side}.layers." in name and "fc1.bias" in name]
        config[f"{side}_layers"] = len(names)
        config[f"{side}_attention_heads"] = width // _HEADS_SIZE
        config[f"{side}_ffn_dim"] = len(weights[names[0]])
    return config | {"num_hidden_layers": config["encoder_layers"]}


def _generation_config(ids: dict[str, int], settings: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "max_length": 448, "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"], "max_initial_timestamp_index": 50,
        "return_timestamps": False, "alignment_heads": settings["alignment_heads"],
        "is_multilingual": len(ids) >= _MULTILINGUAL,
    }  # fmt: skip
    if config["is_multilingual"]:
        tasks = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
        languages = {t: i for t, i in ids.items() if ids[_START] < i < tasks["translate"]}
        config |= {"lang_to_id": languages, "task_to_id": tasks}
    return config


def _features(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {
        "feature_extractor_type": "WhisperFeatureExtractor", "processor_class": "WhisperProcessor",
        "feature_size": weights["model.encoder.conv1.weight"].shape[1], "sampling_rate": 16000,
        "hop_length": 160, "n_fft": 400, "chunk_length": 30, "n_samples": 480000,
        "nb_max_frames": 3000, "padding_side": "right", "padding_value": 0.0,
        "return_attention_mask": False,
    }  # fmt: skip
