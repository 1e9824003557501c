"""What others know of a speech tokenizer, and the one place that opens its folder.

Another kind of tokenizer is a class that has this and a line in `open_speech_tokenizer`. What
trains or takes this one apart (bulk tokenization, its own evaluation) imports the class instead.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..audio import SAMPLE_RATE_HZ


class OpenedSpeechTokenizer(Protocol):
    """Audio to codes, and codes to text."""

    @property
    def fingerprint(self) -> str:
        """Identifies all that codes depend on."""
        ...

    @property
    def num_codes(self) -> int:
        """K; codes are 0..K-1."""
        ...

    @property
    def frame_rate_hz(self) -> float:
        """Codes a second."""
        ...

    def encode(
        self, audio: Sequence[np.ndarray], sample_rate_hz: int = SAMPLE_RATE_HZ
    ) -> list[np.ndarray]:
        """Mono float32 clips (n,) in -1..1 -> codes (m,) int64 of each.

        Raises:
            AudioError: another sample rate, or a clip that is empty or broken.
        """
        ...

    def decode_text(
        self, codes: Sequence[np.ndarray], languages: Sequence[str | None] | None = None
    ) -> list[str]:
        """What is said in codes (n,), each in its language; "" in none.

        Raises:
            ConfigError: a tokenizer that cannot transcribe, also for no codes at all.
            VocabularyError: a code outside 0..num_codes-1.
        """
        ...


def open_speech_tokenizer(folder: Path, device: str = "cpu") -> OpenedSpeechTokenizer:
    """Open a speech tokenizer's folder.

    Raises:
        CheckpointError: files missing or damaged, or tensors that do not fit the config.
        ConfigError: a config that makes no speech tokenizer.
    """
    from .tokenizer import SpeechTokenizer

    return SpeechTokenizer.from_pretrained(folder, device)
