"""Windows of several datasets in given proportions, and where in each dataset a run stands."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..io.files import fingerprint_of
from .epochs import cached
from .windows import SpeechTextDataset


@dataclass(frozen=True, kw_only=True)
class BlendPosition:
    """A stretch of training on one blend. A checkpoint keeps it, so that a blend can be changed.

    Every dataset is read on from where the stretch before left it: no window of an epoch is read
    twice, none is left out, whatever the sequence of blends. A dataset is known by its contents,
    not by its path.
    """

    first_sample: int = 0
    """Number of the window with which the stretch began."""
    weights: Mapping[str, float]
    """By the dataset's name."""
    offsets: Mapping[str, int]
    """Windows read of each dataset before the stretch, those of earlier blends included."""
    batches: str = ""
    """What decides which windows a step reads: batch size, or its schedule, and window length."""

    @classmethod
    def follow(
        cls,
        stored: Mapping[str, Any] | None,
        weights: Mapping[str, float],
        batches: str,
        next_sample: int,
    ) -> "BlendPosition":
        """The stretch to be trained on: the stored one, or a new one where something changed.

        `stored` is `asdict` of a position with `consumed_samples`, as a checkpoint keeps it.
        `next_sample` is the window with which the run goes on if its batches were changed.
        """
        if not stored or "weights" not in stored:
            return cls(weights=weights, offsets={}, batches=batches)
        consumed = stored["consumed_samples"]
        known = {name: value for name, value in stored.items() if name != "consumed_samples"}
        before = cls(**known)
        same_batches = before.batches == batches
        if same_batches and list(before.weights.items()) == list(weights.items()):
            return before
        return cls(
            first_sample=consumed if same_batches else next_sample,
            weights=weights,
            offsets=before.read_after(consumed),
            batches=batches,
        )

    def read_after(self, consumed_samples: int) -> dict[str, int]:
        """Windows read of each dataset, this blend's and earlier ones', after so many in all."""
        chosen, _ = draw(list(self.weights.values()), consumed_samples - self.first_sample)
        counts = np.bincount(chosen, minlength=len(self.weights)).tolist()
        drawn = dict(zip(self.weights, counts, strict=True))
        names = dict.fromkeys([*self.offsets, *drawn])
        return {name: self.offsets.get(name, 0) + drawn.get(name, 0) for name in names}

    def plain(self) -> dict[str, Any]:
        """As dictionaries, for a checkpoint."""
        return asdict(replace(self, weights=dict(self.weights), offsets=dict(self.offsets)))


def draw(weights: Sequence[float], samples: int) -> list[np.ndarray]:
    """Which dataset each of `samples` windows is from, and how many of it came before; by core.

    A longer draw begins with the shorter one.
    """
    chosen, number = np.zeros(samples, np.int16), np.zeros(samples, np.int64)
    if len(weights) == 1:
        return [chosen, np.arange(samples, dtype=np.int64)]
    from megatron.core.datasets import helpers

    shares = np.array(weights, np.float64) / np.sum(weights)
    helpers.build_blending_indices(chosen, number, shares, len(shares), samples, False)
    return [chosen, number]


class Blend:
    """`samples` windows of datasets in proportion to weights; an item says its `dataset_id`.

    A number is that of the run's windows, from 0; those before the position's first one belong to
    earlier blends. Numbers beyond `samples` begin with the position's first window again.
    """

    def __init__(
        self, datasets: Sequence[SpeechTextDataset], position: BlendPosition, samples: int
    ):
        self.datasets, self.position = list(datasets), position
        self._samples = max(samples, position.first_sample + 1)
        self._offsets = [position.offsets.get(name, 0) for name in position.weights]

    def build(self, cache: Path, seed: int) -> None:
        """Make the windows readable; what is missing in `cache` is built."""
        weights = list(self.position.weights.values())
        size = self._samples - self.position.first_sample
        key = fingerprint_of("blend", repr((weights, size)))
        parts = ["dataset", "number"]
        self._chosen, self._number = cached(cache, key, parts, lambda: draw(weights, size))
        counts = np.bincount(self._chosen, minlength=len(weights)).tolist()
        for dataset, count, offset in zip(self.datasets, counts, self._offsets, strict=True):
            dataset.build(offset + count, cache, seed)

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = (index - self.position.first_sample) % len(self._chosen)
        dataset = int(self._chosen[place])
        number = self._offsets[dataset] + int(self._number[place])
        return {"dataset_id": torch.tensor(dataset), **self.datasets[dataset][number]}
