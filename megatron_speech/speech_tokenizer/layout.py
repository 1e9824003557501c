"""The released tokenizer's folder: safetensors whose names are Whisper's, plus the codebook's."""

from dataclasses import replace
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..io.files import read_json_object, write_json
from .characters import PREFIX
from .config import SpeechTokenizerConfig
from .model import SpeechTokenizerModel
from .weights import Tensors, read_tensors, write_tensors

_ENCODER = "model.encoder."
_QUANTIZER = _ENCODER + "quantizer."
_STATISTICS = ("ema_count", "ema_weight")  # of training; codes do not depend on them
_QUANTIZER_TENSORS = ("codebook.weight", *_STATISTICS)


def released_names(state: Tensors) -> Tensors:
    """Our state dict under the released tensor names, without training-only outputs."""
    released = {_QUANTIZER + name: _ENCODER + name for name in _QUANTIZER_TENSORS}
    return {
        released.get(name, name): value
        for name, value in state.items()
        if not name.startswith(PREFIX)
    }


def own_names(tensors: Tensors) -> Tensors:
    """Released tensors under our names; encoder-only files may lack the `model.encoder.` prefix."""
    if not any(name.startswith(_ENCODER) for name in tensors):
        lacking = "model." if any(name.startswith("encoder.") for name in tensors) else _ENCODER
        tensors = {lacking + name: value for name, value in tensors.items()}
    quantizer = {_ENCODER + name: _QUANTIZER + name for name in _QUANTIZER_TENSORS}
    tied = "proj_out.weight"  # Whisper's output layer is its embedding
    return {quantizer.get(name, name): v for name, v in tensors.items() if name != tied}


def load_model(folder: Path) -> SpeechTokenizerModel:
    """Read a folder in the released layout: the whole model, or what it has below the quantizer.

    Raises:
        CheckpointError: files missing or damaged, or tensors that do not fit the config.
        ConfigError: a config that makes no speech tokenizer.
    """
    config = read_config(folder)
    tensors = own_names(read_tensors(folder))
    above = _names_above(config, tensors)
    if not above:  # some files hold the encoder alone, whatever their config says
        config = replace(config, quantize_encoder_only=True)
    if config.quantize_encoder_only:
        tensors = {name: value for name, value in tensors.items() if name not in above}
    codebook = tensors.get(_QUANTIZER + "codebook.weight")
    if codebook is not None:  # a codebook trained by gradient comes without statistics
        tensors.setdefault(_QUANTIZER + "ema_count", torch.ones(len(codebook)))
        tensors.setdefault(_QUANTIZER + "ema_weight", codebook.float().clone())
    tensors = {name: v.float() if v.is_floating_point() else v for name, v in tensors.items()}
    model = _filled_model(config, tensors, folder, "meta")
    if any(buffer.is_meta for buffer in model.buffers()):  # some are no part of the file
        model = _filled_model(config, tensors, folder, "cpu")
    return model


def _filled_model(
    config: SpeechTokenizerConfig, tensors: Tensors, folder: Path, built_on: str
) -> SpeechTokenizerModel:
    """The model with `tensors`; built on "meta" no random weights are drawn first."""
    with torch.device(built_on):
        model = SpeechTokenizerModel(config, "sdpa")
    try:
        missing, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: weights do not fit config.json: {error}") from None
    if missing:
        raise CheckpointError(f"{folder}: {len(missing)} tensors missing, first {missing[0]}")
    if unexpected:
        raise CheckpointError(
            f"{folder}: {len(unexpected)} tensors that the config has no place for, first "
            f"{unexpected[0]}"
        )
    return model


def _names_above(config: SpeechTokenizerConfig, tensors: Tensors) -> set[str]:
    """Names of the tensors above the quantizer: upper layers, decoder, outputs."""
    layers = range(config.quantize_position, config.encoder_layers)
    upper = tuple(f"{_ENCODER}layers.{number}." for number in layers)
    parts = (*upper, f"{_ENCODER}layer_norm.", "model.decoder.", "ctc_head.")
    return {name for name in tensors if name.startswith(parts)}


def write_folder(
    folder: Path,
    config: SpeechTokenizerConfig,
    state: Tensors,
    max_shard_bytes: int | None = None,
) -> None:
    """Write weights, preprocessor_config.json and config.json; the config comes last.

    Raises:
        CheckpointError: the weights could not be written (a full disk, most often).
    """
    write_tensors(folder, released_names(state), max_shard_bytes)
    write_json(
        folder / "preprocessor_config.json",
        {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": config.num_mel_bins,
            "sampling_rate": 16000,
            "hop_length": 160,
            "n_fft": 400,
            "chunk_length": 30,
            "padding_value": 0.0,
            "padding_side": "right",
            "return_attention_mask": True,
        },
    )
    write_json(folder / "config.json", config.to_dict())


def read_config(folder: Path) -> SpeechTokenizerConfig:
    """The folder's config.

    Raises:
        CheckpointError: the folder or its config.json is missing.
        DataError: config.json is damaged.
    """
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; give the folder of a speech tokenizer, such as the `export` "
            "folder that tools/train_speech_tokenizer.py writes"
        )
    return SpeechTokenizerConfig.from_dict(read_json_object(path))
