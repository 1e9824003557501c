"""The released tokenizer's folder: safetensors whose names are Whisper's, plus the codebook's."""

import json
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..files import atomic_path, read_json, write_json
from .characters import PREFIX
from .config import SpeechTokenizerConfig
from .model import SpeechTokenizerModel

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ENCODER = "model.encoder."
_QUANTIZER_TENSORS = ("codebook.weight", "ema_count", "ema_weight")


def released_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our state dict under the released tensor names, without training-only outputs."""
    return {
        name.replace(".encoder.quantizer.", ".encoder."): value
        for name, value in state.items()
        if not name.startswith(PREFIX)
    }


def own_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Released tensors under our names; encoder-only files may lack the `model.encoder.` prefix."""
    if not any(name.startswith(_ENCODER) for name in tensors):
        tensors = {_ENCODER + name: value for name, value in tensors.items()}
    quantizer = {_ENCODER + name: _ENCODER + "quantizer." + name for name in _QUANTIZER_TENSORS}
    tied = "proj_out.weight"  # Whisper's output layer is its embedding
    return {quantizer.get(name, name): v for name, v in tensors.items() if name != tied}


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder with one or several safetensors files.

    Raises:
        CheckpointError: none there, pickle weights only, or a damaged file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = [folder / _WEIGHTS]
    if (folder / _INDEX).exists():
        files = [folder / n for n in sorted(set(read_json(folder / _INDEX)["weight_map"].values()))]
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        if not path.exists():
            pickled = sorted(p.name for p in folder.glob("*.bin"))
            hint = f"; {pickled[0]} is pickle and is not read, convert it" if pickled else ""
            raise CheckpointError(f"{path} does not exist{hint}")
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from None
    return tensors


def load_whisper(model: SpeechTokenizerModel, folder: Path) -> None:
    """Start `model` from a Whisper folder of transformers: everything but the quantizer is there.

    Raises:
        CheckpointError: tensors of other shapes, or missing ones.
    """
    tensors = own_names(read_tensors(folder))
    new = ("quantizer.", "embed_positions2.", "ctc_head.", PREFIX)
    try:
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder} holds a Whisper of another shape than the recipe's; set --d-model, "
            f"--encoder-layers and so on to its config.json\n{error}"
        ) from None
    lost = [name for name in missing if not any(part in name for part in new)]
    if lost or unexpected:
        raise CheckpointError(
            f"{folder} does not fit: {len(lost)} tensors missing, {len(unexpected)} too many, "
            f"first {(lost + unexpected)[0]}"
        )
    encoder = model.encoder
    with torch.no_grad():
        rows = len(encoder.embed_positions2.weight)
        encoder.embed_positions2.weight.copy_(encoder.embed_positions.weight[:rows])


def write_folder(
    folder: Path, config: SpeechTokenizerConfig, state: dict[str, torch.Tensor]
) -> None:
    """Write weights, config.json and preprocessor_config.json; the config comes last.

    Raises:
        CheckpointError: the weights could not be written (a full disk, most often).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: v.detach().cpu().contiguous() for name, v in released_names(state).items()}
    try:
        with atomic_path(folder / _WEIGHTS) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
    except SafetensorError as error:
        raise CheckpointError(f"{folder / _WEIGHTS} could not be written: {error}") from None
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
        CheckpointError: the folder or its config.json is missing or no JSON.
    """
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; give the folder of a speech tokenizer, such as the `export` "
            "folder that tools/train_speech_tokenizer.py writes"
        )
    try:
        return SpeechTokenizerConfig.from_dict(read_json(path))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from None
