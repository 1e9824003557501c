"""Character CTC: training-only outputs that show a small encoder early where sounds are.

Words are rare in little data, letters are not: with a character CTC on the frames before the pool,
the word losses of a model trained from scratch fall several times sooner. Large models that start
from Whisper need none of this. The heads are never exported.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .config import SpeechTokenizerConfig

ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
_NUMBERS = {letter: number for number, letter in enumerate(ALPHABET)}
PREFIX = "character_heads."


def character_ids(text: str) -> list[int]:
    """Letters of a transcript as numbers; what is not in ALPHABET is left out."""
    words = " ".join(text.lower().split())
    return [_NUMBERS[letter] for letter in words if letter in _NUMBERS]


@dataclass
class CharacterLogits:
    """Logits over ALPHABET and a blank, last, at 50 Hz; None where there is no head."""

    lower: torch.Tensor | None
    """From the frames before the pool, (B, F, letters + 1)."""
    upper: torch.Tensor | None
    """From the last encoder layer, (B, codes x pool, letters + 1)."""


class CharacterHeads(nn.Module):
    """Linear outputs below the pool, and on top, where each code yields as many frames as it
    pools: the letters of 80 ms would not fit one CTC step."""

    def __init__(self, config: SpeechTokenizerConfig, lower: bool, upper: bool):
        super().__init__()
        self._symbols, self._pool = len(ALPHABET) + 1, config.pooling_kernel_size
        self.lower = nn.Linear(config.d_model, self._symbols) if lower else None
        self.upper = nn.Linear(config.d_model, self._pool * self._symbols) if upper else None

    def forward(
        self,
        frames: Float[Tensor, "batch frames width"],
        encoded: Float[Tensor, "batch codes width"],
    ) -> CharacterLogits:
        """Frames before the pool and outputs of the last layer -> logits."""
        batch, codes, _ = encoded.shape
        upper = None
        if self.upper is not None:
            upper = self.upper(encoded).view(batch, codes * self._pool, self._symbols)
        return CharacterLogits(None if self.lower is None else self.lower(frames), upper)
