"""Which recordings make the global batch of each step: a pure function of (seed, step).

A run needs no reader state: step n asks for the same recordings after a restart as without one.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from ..errors import DataError

_SORTED_BATCHES = 50


class BatchPlan(Protocol):
    """Chooses recordings by their number in the data set."""

    def batch(self, iteration: int) -> np.ndarray:
        """Indices of the recordings of step `iteration`, the shortest first."""
        ...


def make_plan(
    durations_s: Sequence[float],
    sizes: Sequence[int],
    weights: Sequence[float],
    batch_size: int,
    seed: int,
) -> BatchPlan:
    """Plan for recordings of several sources, `sizes` of each: in epochs, or mixed by `weights`.

    Raises:
        DataError: fewer recordings than a batch holds, or a source without any.
    """
    if weights:
        return MixedBatchPlan(durations_s, sizes, weights, batch_size, seed)
    return EpochBatchPlan(durations_s, batch_size, seed)


class EpochBatchPlan:
    """Every recording once an epoch.

    Every epoch shuffles the recordings, sorts stretches of 50 batches by duration so that little
    is padded, and shuffles the batches. The last incomplete batch of an epoch is left out.
    """

    def __init__(self, durations_s: Sequence[float], batch_size: int, seed: int):
        if len(durations_s) < batch_size:
            raise DataError(
                f"{len(durations_s)} usable recordings do not fill one batch of {batch_size}; "
                "lower --global-batch-size"
            )
        self._durations = np.asarray(durations_s)
        self._batch_size, self._seed = batch_size, seed
        self.batches_per_epoch = len(durations_s) // batch_size
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def batch(self, iteration: int) -> np.ndarray:
        """Indices of the recordings of step `iteration`."""
        epoch, position = divmod(iteration, self.batches_per_epoch)
        return self._epoch(epoch)[position]

    def _make_epoch(self, epoch: int) -> np.ndarray:
        random = np.random.default_rng((self._seed, epoch))
        used = self.batches_per_epoch * self._batch_size
        order = random.permutation(len(self._durations))[:used]
        stretch = _SORTED_BATCHES * self._batch_size
        for start in range(0, used, stretch):
            part = order[start : start + stretch]
            order[start : start + stretch] = part[np.argsort(self._durations[part], kind="stable")]
        return random.permutation(order.reshape(-1, self._batch_size))


class MixedBatchPlan:
    """Sources in fixed proportions, each in an order of its own (paper section 2.4: 1 to 3).

    A stretch of 50 batches takes its share from every source, where the stretch before stopped;
    a source that ends is shuffled anew. The stretch is sorted by duration, cut into batches, and
    these are shuffled: proportions are exact over a stretch, not in every batch.
    """

    def __init__(
        self,
        durations_s: Sequence[float],
        sizes: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
    ):
        self._durations = np.asarray(durations_s)
        self._sizes, self._batch_size, self._seed = list(sizes), batch_size, seed
        if empty := [number + 1 for number, size in enumerate(sizes) if not size]:
            raise DataError(f"--manifest number {empty[0]} has no usable recording to mix in")
        self.quotas = _apportion(_SORTED_BATCHES * batch_size, weights)
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._stretch = lru_cache(maxsize=2)(self._make_stretch)
        self._order = lru_cache(maxsize=2 * len(sizes))(self._make_order)

    def batch(self, iteration: int) -> np.ndarray:
        """Indices of the recordings of step `iteration`."""
        stretch, position = divmod(iteration, _SORTED_BATCHES)
        return self._stretch(stretch)[position]

    def _make_stretch(self, stretch: int) -> np.ndarray:
        parts = [
            self._starts[source] + self._take(source, quota * stretch, quota)
            for source, quota in enumerate(self.quotas)
        ]
        chosen = np.concatenate(parts)
        chosen = chosen[np.argsort(self._durations[chosen], kind="stable")]
        random = np.random.default_rng((self._seed, stretch))
        return random.permutation(chosen.reshape(-1, self._batch_size))

    def _take(self, source: int, start: int, count: int) -> np.ndarray:
        """Recordings `start` .. `start + count` of the endless order of a source."""
        parts, size = [np.zeros(0, np.int64)], self._sizes[source]
        while count:
            epoch, position = divmod(start, size)
            parts.append(self._order(source, epoch)[position : position + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)

    def _make_order(self, source: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((self._seed, source, epoch)).permutation(self._sizes[source])


def _apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to `weights` that add up to `total`: the largest remainders."""
    exact = total * np.asarray(weights, dtype=np.float64) / sum(weights)
    parts = np.floor(exact).astype(int)
    largest = np.argsort(parts - exact, kind="stable")[: total - parts.sum()]
    parts[largest] += 1
    return parts.tolist()
