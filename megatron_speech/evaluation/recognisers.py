"""Recognisers and judges of audio that know nothing of our codes, each behind one small class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..errors import CheckpointError, ConfigError
from ..speech_tokenizer.opened import OpenedSpeechTokenizer
from ..speech_tokenizer.whisper import Whisper


class Recogniser(Protocol):
    """Audio to text."""

    def read(self, audio: Sequence[np.ndarray]) -> list[str]:
        """Mono clips (n,) of 16 kHz -> what is said in each."""
        ...


class CodeRecogniser:
    """The speech tokenizer's own ASR: audio to codes to text."""

    def __init__(self, tokenizer: OpenedSpeechTokenizer, language: str):
        self._tokenizer, self._language = tokenizer, language

    def read(self, audio: Sequence[np.ndarray]) -> list[str]:
        codes = self._tokenizer.encode(audio)
        return self._tokenizer.decode_text(codes, [self._language] * len(codes))


class WhisperRecogniser:
    """A released Whisper, which never heard of our codes: what independent word errors go by."""

    def __init__(self, folder: Path, language: str, device: str):
        self._whisper, self._language = Whisper.from_pretrained(folder, device), language

    def read(self, audio: Sequence[np.ndarray]) -> list[str]:
        return self._whisper.transcribe(audio, [self._language] * len(audio))


class ScriptedJudge:
    """A TorchScript file that takes audio (1, n), float32 at 16 kHz, and gives a tensor.

    For UTMOS the tensor is one number, the score; for speaker similarity it is an embedding (any
    shape), and similarity is the cosine of two. TorchScript runs what its file says: treat it as
    you would a program.
    """

    def __init__(self, path: Path, device: str):
        try:
            self._model = torch.jit.load(str(path), map_location=device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            first = str(error).splitlines()[:1]
            raise CheckpointError(
                f"{path} is no TorchScript file ({first}); export the model by torch.jit.save"
            ) from None
        self._device = device

    @torch.no_grad()
    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Audio (n,) of 16 kHz -> what the model says, flat."""
        rows = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))[None]
        found = self._model(rows.to(self._device))
        if not isinstance(found, torch.Tensor):
            raise ConfigError(f"the TorchScript model gave {type(found).__name__}, not a tensor")
        return found.float().cpu().flatten().numpy()
