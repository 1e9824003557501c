"""What a training step of a speech tokenizer reads."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from ..io.rejected import Rejected

IGNORED = -100
"""Label of what is no target."""


@dataclass
class AsrBatch:
    """B recordings padded to F mel frames and L tokens."""

    mel: torch.Tensor
    """Log-mels (B, bins, F)."""
    mel_lengths: torch.Tensor
    """Valid frames (B,)."""
    decoder_input: torch.Tensor
    """Prompt and text tokens (B, L)."""
    labels: torch.Tensor
    """Next tokens (B, L); IGNORED in the prompt and on padding."""
    targets: list[list[int]]
    """Text tokens without prompt and end, for CTC."""
    characters: list[list[int]]
    """Letters of the texts, for the character CTC."""
    rejected: list[Rejected]
    """Recordings that could not be read; others stand in their places."""

    def pinned(self) -> "AsrBatch":
        """The same in memory that a GPU reads by itself, while the CPU goes on."""
        return self._each(torch.Tensor.pin_memory)

    def to(self, device: torch.device) -> "AsrBatch":
        """On its way to the device; does not wait for pinned memory to be read."""
        return self._each(lambda value: value.to(device, non_blocking=True))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "AsrBatch":
        names = ("mel", "mel_lengths", "decoder_input", "labels")
        return replace(self, **{name: change(getattr(self, name)) for name in names})


def text_loss(logits: torch.Tensor, labels: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Cross-entropy of logits (B, L, vocabulary) and labels (B, L), in nats."""
    flat = logits.float().flatten(0, 1)
    return F.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction=reduction)
