"""Recordings in, log-mel spectrograms out. soundfile, soxr and torch; no torchaudio.

Shapes: a waveform is (samples,) or (batch, samples) at 16 kHz, a spectrogram is
(batch, n_mels, frames) with frames = samples // 160, that is 100 per second.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from os import PathLike
from typing import BinaryIO, Literal

import numpy as np
import soxr
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .errors import AudioError, ConfigError
from .io.audio_files import AudioFile, check_rate, open_audio

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES = 400
"""One analysis window: 25 ms."""
HOP_SAMPLES = 160
MEL_FRAME_RATE_HZ = SAMPLE_RATE_HZ // HOP_SAMPLES
"""100 spectrogram frames per second."""

SILENCE_PEAK = 1e-4
"""A recording that never exceeds this amplitude (-80 dBFS) carries no sound."""
LOUDEST = 100.0
"""Full scale is 1.0 and clipping lies a little above; integer samples as floats far above."""
POWER_FLOOR = 1e-10
FIXED_FLOOR_LOG10 = -6.0
CLIP_RANGE_LOG10 = 8.0

_BLOCK_FRAMES = 1 << 18

_LONGEST_S = 1e9
_ROUNDING_S = 0.025  # lists of excerpts round their times

DynamicRange = Literal["clip_maximum", "fixed"]


def check_waveform(waveform: np.ndarray, name: str) -> None:
    """Refuse a waveform without usable sound; `name` says whose it is.

    Raises:
        AudioError: no samples (`empty`), NaN or infinite ones (`not_finite`), only silence
            (`silent`), or samples far beyond full scale (`out_of_range`).
    """
    if waveform.size == 0:
        raise AudioError(f"{name} holds no samples; record or export it again", reason="empty")
    peak = float(np.abs(waveform).max())
    if not np.isfinite(peak):
        bad = int(np.count_nonzero(~np.isfinite(waveform)))
        raise AudioError(
            f"{name} holds {bad} NaN or infinite samples of {waveform.size}", reason="not_finite"
        )
    if peak < SILENCE_PEAK:
        raise AudioError(
            f"{name} is silent: its peak is {peak:.1e}, expected above {SILENCE_PEAK}",
            reason="silent",
        )
    if peak > LOUDEST:
        raise AudioError(
            f"{name} has samples up to {peak:.4g}, expected -1..1; divide integer samples by their "
            "full scale",
            reason="out_of_range",
        )


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """Which part of a recording is meant, by default all of it, and how it is wanted."""

    start_s: float = 0.0
    """Where it begins."""
    duration_s: float | None = None
    """How long it is; None goes on to the end."""
    channels: tuple[int, ...] | None = None
    """Channels that are averaged, from 0; None takes all."""
    rate_hz: int = SAMPLE_RATE_HZ
    """Sample rate of what is read, whatever the file's is."""


WHOLE = Excerpt()


def read_audio(path: str | PathLike[str], excerpt: Excerpt = WHOLE) -> np.ndarray:
    """Read a recording of any rate and channel count as float32 mono, at 16 kHz by default.

    Channels are averaged; other rates are resampled by soxr at high quality.

    Returns:
        Waveform of shape (samples,).

    Raises:
        AudioError: the file is missing, unreadable or cut short, or holds no usable sound;
            its `reason` gives the code.
    """
    return np.concatenate(list(stream_audio(path, f"recording {path}", excerpt)))


def stream_audio(
    source: str | PathLike[str] | BinaryIO, name: str, excerpt: Excerpt = WHOLE
) -> Iterator[np.ndarray]:
    """The waveform of `read_audio` in blocks (n,): memory does not grow with the recording.

    `name` says in errors whose it is. Silence and cut ends show late: keep nothing on errors.

    Raises:
        AudioError: as `read_audio`, possibly after some blocks.
    """
    size, peak = 0, 0.0
    with open_audio(source, name) as file:
        for block in _mono_blocks(file, name, excerpt):
            if block.size:
                highest = float(np.abs(block).max())
                if not highest <= LOUDEST:
                    check_waveform(block, name)
                size, peak = size + block.size, max(peak, highest)
                yield block
    check_waveform(np.full(min(size, 1), peak), name)


def _mono_blocks(file: AudioFile, name: str, excerpt: Excerpt) -> Iterator[np.ndarray]:
    """Blocks of mono audio at `excerpt.rate_hz`: hours of many channels fit.

    Raises:
        AudioError: the excerpt lies outside, or there is less audio than is announced.
    """
    left = _select(file, name, excerpt)
    resampler = None
    if file.rate_hz != excerpt.rate_hz:
        resampler = soxr.ResampleStream(file.rate_hz, excerpt.rate_hz, 1, dtype="float32")
    most = max(_BLOCK_FRAMES // file.channels, 1)
    last = False
    while not last:
        block = file.read(min(most, left))
        left -= len(block)
        last = left == 0
        if excerpt.channels is not None:
            block = block[:, excerpt.channels]
        mono = block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]
        yield mono if resampler is None else resampler.resample_chunk(mono, last=last)


def _select(file: AudioFile, name: str, excerpt: Excerpt) -> int:
    """Go to the start of an excerpt and return its length in the file's own frames."""
    if excerpt.channels is not None and not (
        excerpt.channels and 0 <= min(excerpt.channels) <= max(excerpt.channels) < file.channels
    ):
        raise AudioError(
            f"{name} has {file.channels} channels, not {excerpt.channels}", reason="no_channel"
        )
    rate = file.rate_hz
    start = round(min(excerpt.start_s, _LONGEST_S) * rate)
    wanted = file.frames - start
    if excerpt.duration_s is not None:
        wanted = round(min(excerpt.duration_s, _LONGEST_S) * rate)
    beyond = start + wanted - file.frames
    most_beyond = (_ROUNDING_S + file.rounding_s) * rate
    if min(start, wanted) < 0 or start >= max(file.frames, 1) or beyond > most_beyond:
        raise AudioError(
            f"{name} lasts {file.frames / rate:.3f} s; the part from {excerpt.start_s:.3f} s of "
            f"{excerpt.duration_s} s lies outside",
            reason="outside",
        )
    if start:
        file.seek(start)
    return wanted - max(beyond, 0)


def resample(
    waveform: np.ndarray, rate_hz: float, to_rate_hz: float = SAMPLE_RATE_HZ
) -> np.ndarray:
    """Change the sample rate of a float32 waveform (samples,) by soxr at high quality.

    Raises:
        AudioError: a rate that sound does not have (`sample_rate`).
    """
    for rate in (rate_hz, to_rate_hz):
        check_rate(rate, "a waveform")
    if rate_hz == to_rate_hz:
        return np.ascontiguousarray(waveform, dtype=np.float32)
    return soxr.resample(waveform.astype(np.float32, copy=False), rate_hz, to_rate_hz)


@cache
def mel_filters(
    rate_hz: int, n_fft: int, n_mels: int, highest_hz: float, device: torch.device
) -> Float[Tensor, "bins n_mels"]:
    """Slaney mel filters from 0 Hz on, over n_fft // 2 + 1 bins, as Whisper has them."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        n_fft // 2 + 1, n_mels, 0.0, highest_hz, rate_hz, norm="slaney", mel_scale="slaney"
    )
    return torch.from_numpy(filters.astype(np.float32)).to(device)


def log_mel(
    waveform: Float[Tensor, "batch samples"],
    n_mels: int = 80,
    dynamic_range: DynamicRange = "clip_maximum",
    floor_log10: float = FIXED_FLOOR_LOG10,
) -> Float[Tensor, "batch n_mels frames"]:
    """Whisper's log-mel spectrogram, frames = samples // 160, on the waveform's device.

    Args:
        waveform: 16 kHz audio; nothing is padded to 30 s.
        n_mels: 80, or 128 for Whisper large-v3.
        dynamic_range: "clip_maximum" equals transformers' WhisperFeatureExtractor: each row is
            floored 8 decades below its own maximum, so any sample can change any frame. "fixed"
            floors at `floor_log10` decades and takes what lies outside as zeros: a frame then
            depends on the 25 ms around it alone, and zero padding in a batch changes nothing.
        floor_log10: the floor of "fixed".

    Raises:
        ConfigError: an unknown `dynamic_range`.
        AudioError: too few samples to mirror half a window of them (or for one frame, if fixed).
    """
    if dynamic_range not in ("clip_maximum", "fixed"):
        raise ConfigError(f"dynamic_range is {dynamic_range!r}; choose 'clip_maximum' or 'fixed'")
    half = WINDOW_SAMPLES // 2
    least = half + 1 if dynamic_range == "clip_maximum" else HOP_SAMPLES
    if waveform.shape[-1] < least:
        raise AudioError(
            f"{waveform.shape[-1]} samples are too few for a spectrogram; at least {least} are "
            "needed",
            reason="too_short",
        )
    # Frame t is centred at sample 160 t; what lies before the start and behind the end is mirrored
    # or silent.
    mode = "reflect" if dynamic_range == "clip_maximum" else "constant"
    padded = F.pad(waveform.float(), (half, half), mode=mode)
    frames = waveform.shape[-1] // HOP_SAMPLES
    log_power = mel_log_power(padded, n_mels)[..., :frames]
    if dynamic_range == "clip_maximum":
        return scale_log_mel(log_power, log_power.amax(dim=(-2, -1), keepdim=True))
    return scale_log_mel(log_power, None, floor_log10)


def mel_log_power(
    padded: Float[Tensor, "batch samples"], n_mels: int
) -> Float[Tensor, "batch n_mels frames"]:
    """log10 of the power in each mel band of every whole window: frame t sees 160 t .. 160 t + 399.

    `padded` holds what lies before and behind the recording; no floor is applied but 1e-10.
    """
    spectrum = torch.stft(
        padded,
        WINDOW_SAMPLES,
        HOP_SAMPLES,
        window=torch.hann_window(WINDOW_SAMPLES, device=padded.device),
        center=False,
        return_complex=True,
    )
    half_hz = SAMPLE_RATE_HZ / 2
    filters = mel_filters(SAMPLE_RATE_HZ, WINDOW_SAMPLES, n_mels, half_hz, padded.device)
    return (filters.T @ spectrum.abs().square()).clamp(min=POWER_FLOOR).log10()


def scale_log_mel(
    log_power: Float[Tensor, "batch n_mels frames"],
    maximum: Float[Tensor, "batch 1 1"] | None,
    floor_log10: float = FIXED_FLOOR_LOG10,
) -> Float[Tensor, "batch n_mels frames"]:
    """Floor log10 powers, 8 decades below `maximum` or at `floor_log10`, and scale as Whisper."""
    if maximum is None:
        floored = log_power.clamp(min=floor_log10)
    else:
        floored = torch.maximum(log_power, maximum - CLIP_RANGE_LOG10)
    return (floored + 4.0) / 4.0
