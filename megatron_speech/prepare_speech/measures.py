"""What can be measured of a segment without a model, and of a transcript without its sound."""

import re
import zlib
from dataclasses import dataclass

import numpy as np

_FRAME = 320
_NEAR_PEAK = 0.97
_LOOP = re.compile(r"(\S+(?: \S+){0,5}?)(?: \1){3,}")
"""Up to six words, four times in a row."""


@dataclass(frozen=True)
class Sound:
    """Figures of a segment's audio."""

    clipped: float
    """Share of samples in a row of at least three at the peak."""
    snr_db: float
    """How much louder its loud parts are than its quiet ones: between words there is but noise."""
    peak: float


def measure_sound(audio: np.ndarray) -> Sound:
    """Figures of a segment (n,)."""
    level = np.abs(audio)
    peak = float(level.max(initial=0.0))
    high = level >= max(_NEAR_PEAK * peak, 1e-6)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], high.astype(np.int8), [0]])))
    lengths = edges[1::2] - edges[::2]
    clipped = float(lengths[lengths >= 3].sum() / max(len(audio), 1))
    frames = audio[: len(audio) // _FRAME * _FRAME].reshape(-1, _FRAME)
    energy = (frames.astype(np.float64) ** 2).mean(axis=1) + 1e-10
    quiet, loud = np.percentile(energy, (5, 95)) if len(energy) else (1.0, 1.0)
    return Sound(clipped, float(10 * np.log10(loud / quiet)), peak)


def repetition(text: str) -> float:
    """How many times smaller a text gets by zlib, as Whisper measures it; 99 of a loop."""
    if _LOOP.search(" ".join(text.lower().split())):
        return 99.0
    content = text.encode()
    return len(content) / len(zlib.compress(content)) if content else 0.0
