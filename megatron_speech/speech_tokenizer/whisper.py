"""A released Whisper: what it is, a tokenizer's start from it, and its own reading of speech."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..audio import SAMPLE_RATE_HZ
from ..errors import CheckpointError, ConfigError, DataError
from ..io.files import read_json_object
from ..io.model_folders import resolve_model
from ..jobs.progress import track
from .characters import PREFIX
from .config import SpeechTokenizerConfig
from .features import batch_features, batches_by_length, checked_clip, with_silence
from .layout import own_names
from .model import SpeechTokenizerModel
from .text import AsrText
from .weights import read_tensors

SecondPositions = Literal["zero", "sinusoids"]

_SHAPE = (
    "d_model encoder_layers encoder_attention_heads encoder_ffn_dim decoder_layers "
    "decoder_attention_heads decoder_ffn_dim num_mel_bins max_source_positions "
    "max_target_positions"
).split()
_MIDDLE = ("pooling_position", "quantize_position")
_BATCH_SAMPLES = 240 * SAMPLE_RATE_HZ


def shaped_as_whisper(config: SpeechTokenizerConfig, folder: Path) -> SpeechTokenizerConfig:
    """`config` in the shape of a Whisper folder.

    Pool and quantizer lie in the middle of its encoder unless `config` has them elsewhere than in
    the middle of whisper-large-v3.

    Raises:
        CheckpointError: no config.json of a Whisper.
        ConfigError: `config` asks for another shape.
    """
    there = _whisper_settings(folder)
    usual = SpeechTokenizerConfig()
    asked = {
        name: getattr(config, name)
        for name in _SHAPE
        if getattr(config, name) not in (getattr(usual, name), there[name])
    }
    if asked:
        flags = ", ".join(
            f"--{name.replace('_', '-')} {value} (it: {there[name]})"
            for name, value in asked.items()
        )
        raise ConfigError(
            f"--init-from {folder} says the shape, but the recipe or a flag asks for {flags}; "
            "leave such flags out and use a recipe such as tokenizer-from-whisper-12.5hz"
        )
    middle = {
        name: there["encoder_layers"] // 2
        for name in _MIDDLE
        if getattr(config, name) == getattr(usual, name)
    }
    shape = {name: there[name] for name in _SHAPE}
    return replace(config, **shape, **middle, vocab_size=there["vocab_size"])


def _whisper_settings(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        settings = read_json_object(path, **dict.fromkeys((*_SHAPE, "vocab_size"), int))
    except (DataError, OSError) as error:
        raise CheckpointError(
            f"{error}; expected the folder of a Whisper model as transformers saves it, with "
            "config.json, model.safetensors and tokenizer.json"
        ) from None
    for name, only in (("activation_function", "gelu"), ("scale_embedding", False)):
        if settings.get(name, only) != only:
            raise CheckpointError(
                f"{path} has {name} {settings[name]!r}; only {only!r} is known here"
            )
    return settings


def load_whisper(
    model: SpeechTokenizerModel, folder: Path, second_positions: SecondPositions = "zero"
) -> None:
    """Start `model` from a Whisper folder of transformers: everything but the quantizer is there.

    The positions that are added once more above the quantizer are `zero`, so that without pool and
    quantizer the model is Whisper, or the first of Whisper's `sinusoids`, as in the released code.

    Raises:
        CheckpointError: tensors of other shapes, or missing ones.
    """
    tensors = own_names(read_tensors(folder))
    wanted = model.state_dict()
    new = ("quantizer.", "embed_positions2.", "ctc_head.", PREFIX)
    found = {
        "are missing": [n for n in wanted.keys() - tensors if not any(part in n for part in new)],
        "are unknown": list(tensors.keys() - wanted),
        "have another shape": [
            n for n in wanted.keys() & tensors if wanted[n].shape != tensors[n].shape
        ],
    }
    flaws = [f"{len(n)} tensors {what}, first {min(n)}" for what, n in found.items() if n]
    if flaws:
        raise CheckpointError(f"{folder} is not the Whisper of its config.json: {'; '.join(flaws)}")
    model.load_state_dict(tensors, strict=False)
    second = model.encoder.embed_positions2.weight
    with torch.no_grad():
        second.copy_(model.encoder.embed_positions.weight[: len(second)])
        if second_positions == "zero":
            second.zero_()


class Whisper:
    """A released Whisper as it is: audio to text, greedily. Make one by `from_pretrained`.

    Texts are those of transformers' `generate` on the same padding.
    """

    def __init__(self, model: SpeechTokenizerModel, text: AsrText):
        self.model, self.text = model.eval(), text

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "Whisper":
        """Read a folder of transformers (safetensors, tokenizer.json), or a model of the hub.

        Raises:
            CheckpointError: files missing or damaged, or no Whisper.
        """
        folder, config, text = cls.settings(folder)
        model = SpeechTokenizerModel(config, "sdpa")
        load_whisper(model, folder)
        return cls(model.to(device, dtype), text)

    @staticmethod
    def settings(folder: str | Path) -> tuple[Path, SpeechTokenizerConfig, AsrText]:
        """The folder itself and all that `from_pretrained` wants of it but the weights.

        Raises:
            CheckpointError: as `from_pretrained`; the weights are not looked at.
        """
        folder = resolve_model(folder)
        untouched = SpeechTokenizerConfig(
            pooling_kernel_size=1,
            quantize_vocab_size=None,
            quantize_causal_block_size=None,
            encoder_causal_convolution=False,
        )
        config = shaped_as_whisper(untouched, folder)
        text = AsrText(folder)
        config = replace(config, eos_token_id=text.eos_id, decoder_start_token_id=text.start_id)
        return folder, config, text

    @torch.no_grad()
    def transcribe(
        self,
        audio: Sequence[np.ndarray],
        languages: Sequence[str | None] | None = None,
        silence_s: float = 30.0,
    ) -> list[str]:
        """Mono float32 clips (n,) of 16 kHz -> their texts.

        Each clip is cut into windows of 30 s, and each window gets up to `silence_s` seconds of
        silence, at most as many as fill it: 30 is what Whisper was trained with.

        Raises:
            AudioError: a clip that is empty, not mono or not of finite floats.
        """
        return transcribe_audio(
            self.model, self.text, audio, languages, silence_s=silence_s, limited=False
        )


@torch.no_grad()
def transcribe_audio(
    model: SpeechTokenizerModel,
    text: AsrText,
    audio: Sequence[np.ndarray],
    languages: Sequence[str | None] | None = None,
    silence_s: float = 0.0,
    limited: bool = True,
) -> list[str]:
    """Clips (n,) -> what the decoder reads in the encoder's vectors, past any codebook.

    Each clip is cut into windows of 30 s, and each window gets up to `silence_s` of silence.
    `limited` as in `AsrText.transcribe`.
    """
    config, windows = model.config, list[tuple[int, np.ndarray]]()
    weight, size = model.encoder.conv1.weight, config.window_samples
    for index, clip in enumerate(audio):
        clip = checked_clip(clip, f"clip {index}")
        for start in range(0, len(clip), size):
            windows.append((index, with_silence(clip[start : start + size], silence_s, size)))
    parts: list[list[tuple[int, str]]] = [[] for _ in audio]
    batches = list(batches_by_length([len(w) for _, w in windows], _BATCH_SAMPLES))
    for batch in track(batches, "transcribing", len(batches), "batches"):
        mel, lengths = batch_features([windows[n][1] for n in batch], config, weight.device)
        encoded = model.encoder(mel.to(weight.dtype), lengths, quantize=False)
        owners = [windows[n][0] for n in batch]
        spoken = [languages[owner] if languages else None for owner in owners]
        texts = text.transcribe(model, encoded.hidden, encoded.valid, spoken, limited=limited)
        for n, owner, found in zip(batch, owners, texts, strict=True):
            parts[owner].append((n, found))
    return [" ".join(found for _, found in sorted(part)).strip() for part in parts]
