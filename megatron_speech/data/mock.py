"""Windows of random text and speech, to time a machine without data."""

import numpy as np
import torch
from torch import Tensor

from .loss_rules import RuleTokens

_SEGMENT = 16  # tokens of text, then as many of speech


class MockWindows:
    """Endless windows, each a pure function of seed and number; items as `SpeechTextDataset`'s."""

    def __init__(self, kinds: RuleTokens, seq_length: int, seed: int, samples: int):
        self._kinds, self._size, self._seed, self._samples = kinds, seq_length, seed, samples

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = np.random.default_rng([self._seed, index])
        offset = self._kinds.code_offset
        ids = generator.integers(0, offset, self._size + 1)
        speech = (np.arange(self._size + 1) // _SEGMENT) % 2 == 1
        ids[speech] = generator.integers(offset, offset + self._kinds.num_codes, speech.sum())
        tokens = torch.from_numpy(ids)
        return {
            "tokens": tokens[:-1].clone(),
            "labels": tokens[1:].clone(),
            "loss_mask": torch.ones(self._size),
            "position_ids": torch.arange(self._size),
            "documents": torch.zeros(self._size, dtype=torch.long),
        }
