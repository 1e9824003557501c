"""Audio -> padded log-mel batches, in a way that no clip depends on its batch mates."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ..audio import HOP_SAMPLES, LOUDEST, log_mel
from ..errors import AudioError
from .config import SpeechTokenizerConfig


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
