"""Audio -> padded log-mel batches, in a way that no clip depends on its batch mates."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ..audio import (
    HOP_SAMPLES,
    LOUDEST,
    SAMPLE_RATE_HZ,
    WINDOW_SAMPLES,
    log_mel,
    mel_log_power,
    scale_log_mel,
)
from ..errors import AudioError
from .config import SpeechTokenizerConfig

_HALF = WINDOW_SAMPLES // 2


def checked_clip(clip: np.ndarray, name: str) -> np.ndarray:
    """Audio (n,) as float32; `name` says whose it is.

    Raises:
        AudioError: no samples, more than one channel, no floats, NaN, infinite samples, or some far
            beyond full scale.
    """
    clip = np.asarray(clip)
    if clip.ndim != 1:
        raise AudioError(f"{name} has shape {clip.shape}; expected mono audio (samples,)")
    if clip.size == 0:
        raise AudioError(f"{name} is empty", reason="empty")
    if not np.issubdtype(clip.dtype, np.floating):
        raise AudioError(f"{name} is {clip.dtype}; expected float samples in -1..1")
    peak = float(np.abs(clip).max())
    if not np.isfinite(peak):
        raise AudioError(f"{name} holds NaN or infinite samples", reason="not_finite")
    if peak > 2 * LOUDEST:  # twice what read_audio lets through: resampling may overshoot
        raise AudioError(
            f"{name} has samples up to {peak:.4g}; expected -1..1 (divide 16-bit samples by 32768)",
            reason="out_of_range",
        )
    return clip.astype(np.float32, copy=False)


def cut_windows(blocks: Iterable[np.ndarray], window_samples: int) -> Iterator[np.ndarray]:
    """Audio in blocks (n,) of any size -> windows (window_samples,); the last holds what is left.

    At most one window and one block are held at a time.
    """
    parts: list[np.ndarray] = []
    held = 0
    for block in blocks:
        while held + len(block) >= window_samples:
            first = window_samples - held
            yield np.concatenate([*parts, block[:first]])
            parts, held, block = [], 0, block[first:]
        if len(block):
            parts.append(block)
            held += len(block)
    if parts:
        yield np.concatenate(parts)


def with_silence(
    clip: Float[np.ndarray, " samples"], silence_s: float, most: int
) -> Float[np.ndarray, " longer"]:
    """A clip (n,) and `silence_s` seconds of zeros behind it, at most `most` samples in all."""
    added = min(round(silence_s * SAMPLE_RATE_HZ), most - len(clip))
    return np.pad(clip, (0, max(added, 0)))


def clip_features(
    audio: np.ndarray | Tensor, config: SpeechTokenizerConfig
) -> tuple[Float[Tensor, "bins frames"], int]:
    """Log-mel (bins, frames) of one clip (n,) of at most one window, and its valid frames.

    Zeros fill the clip up to whole codes. Features are taken clip by clip: the last frame's
    window reaches past the clip's end, and must see the same there in every batch.
    """
    audio = torch.as_tensor(audio, dtype=torch.float32)
    samples = audio.shape[-1]
    padded = F.pad(audio, (0, -samples % config.samples_per_code))
    mel = log_mel(padded[None], config.num_mel_bins, config.mel_dynamic_range)
    return mel[0], -(-samples // HOP_SAMPLES)


def collate_features(
    clips: Sequence[tuple[Tensor, int]],
) -> tuple[Float[Tensor, "batch bins frames"], Int64[Tensor, " batch"]]:
    """Clips (bins, frames), valid frames -> (B, bins, longest), (B,)."""
    longest = max(mel.shape[1] for mel, _ in clips)
    batch = torch.zeros(len(clips), clips[0][0].shape[0], longest)
    for row, (mel, _) in zip(batch, clips, strict=True):
        row[:, : mel.shape[1]] = mel
    return batch, torch.tensor([valid for _, valid in clips])


def batch_features(
    clips: Sequence[np.ndarray], config: SpeechTokenizerConfig, device: torch.device
) -> tuple[Float[Tensor, "batch bins frames"], Int64[Tensor, " batch"]]:
    """Clips (n,) of at most one window each -> log-mels (B, bins, longest), valid frames (B,).

    On a CPU clip by clip, which is faster there; elsewhere as one batch on `device`.
    """
    if device.type == "cpu":
        return collate_features([clip_features(clip, config) for clip in clips])
    return device_features(clips, config, device)


def device_features(
    clips: Sequence[np.ndarray], config: SpeechTokenizerConfig, device: torch.device
) -> tuple[Float[Tensor, "batch bins frames"], Int64[Tensor, " batch"]]:
    """`clip_features` and `collate_features` of the whole batch at once, on `device`.

    Each row carries its own clip's surroundings, and frames behind its end count for nothing. The
    values are those of `collate_features` but for the last bit (1.2e-7 on a CPU), where products
    of another shape are summed in another order.
    """
    sizes = [len(clip) + -len(clip) % config.samples_per_code for clip in clips]
    audio = torch.zeros(len(clips), max(sizes) + 2 * _HALF, pin_memory=device.type == "cuda")
    rows = audio.numpy()
    for row, clip, size in zip(rows, clips, sizes, strict=True):
        row[_HALF : _HALF + len(clip)] = clip
        if config.mel_dynamic_range == "clip_maximum":  # mirrored at both ends, as Whisper does
            end = _HALF + size
            row[:_HALF] = row[2 * _HALF : _HALF : -1]
            row[end : end + _HALF] = row[end - 2 : end - 2 - _HALF : -1]
    power = mel_log_power(audio.to(device, non_blocking=True), config.num_mel_bins)
    power = power[..., : max(sizes) // HOP_SAMPLES]
    frames = to_device([size // HOP_SAMPLES for size in sizes], device)
    valid = to_device([-(-len(clip) // HOP_SAMPLES) for clip in clips], device)
    behind = torch.arange(power.shape[-1], device=device) >= frames[:, None, None]
    maximum = None
    if config.mel_dynamic_range == "clip_maximum":
        maximum = power.masked_fill(behind, -torch.inf).amax(dim=(-2, -1), keepdim=True)
    return scale_log_mel(power, maximum).masked_fill_(behind, 0.0), valid


def to_device(numbers: Sequence[int], device: torch.device) -> Int64[Tensor, " n"]:
    """Numbers on a device, from pinned memory: what a GPU is still doing is not waited for."""
    tensor = torch.tensor(numbers, pin_memory=device.type == "cuda")
    return tensor.to(device, non_blocking=True)


def batches_by_length(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Indices in batches of similar length whose padded size stays within `limit`."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > limit:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
