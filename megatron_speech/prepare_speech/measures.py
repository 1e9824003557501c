"""What can be measured of a segment without a model, and of a transcript without its sound."""

from dataclasses import dataclass

import numpy as np

_FRAME, _SECOND = 320, 50
_PAUSE_DB = 20.0
_NEAR_PEAK = 0.97


@dataclass(frozen=True)
class Sound:
    """Figures of a segment's audio."""

    clipped: float
    """Share of samples in a row of at least three at the peak."""
    snr_db: float
    """How much louder speech is than what is left between syllables, in its noisier quarter."""
    peak: float


def measure_sound(audio: np.ndarray) -> Sound:
    """Figures of a segment (n,)."""
    level = np.abs(audio)
    peak = float(level.max(initial=0.0))
    high = level >= max(_NEAR_PEAK * peak, 1e-6)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], high.astype(np.int8), [0]])))
    lengths = edges[1::2] - edges[::2]
    clipped = float(lengths[lengths >= 3].sum() / max(len(audio), 1))
    return Sound(clipped, _snr_db(audio), peak)


def _snr_db(audio: np.ndarray) -> float:
    """Loud frames over quiet ones of each second, but for pauses; the lower quartile of these.

    Of a second: pauses may be silent around speech that noise covers.
    """
    frames = audio[: len(audio) // _FRAME * _FRAME].reshape(-1, _FRAME)
    if not len(frames):
        return 0.0
    energy_db = 10 * np.log10((frames.astype(np.float64) ** 2).mean(axis=1) + 1e-10)
    seconds = np.lib.stride_tricks.sliding_window_view(energy_db, min(_SECOND, len(frames)))
    quiet, loud, loudest = np.percentile(seconds[:: _SECOND // 2], (10, 90, 95), axis=1)
    speaks = loud >= np.percentile(energy_db, 95) - _PAUSE_DB
    return float(np.percentile((loudest - quiet)[speaks], 25)) if speaks.any() else 0.0
