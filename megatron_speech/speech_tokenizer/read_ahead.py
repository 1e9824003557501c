"""Batches that are read by a thread while the one before is trained on."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import ConfigError, DataError, require_within
from ..io.rejected import Rejected
from ..training.ddp import Objective
from ..training.ranks import rank_and_size
from .batch_plan import make_plan
from .set_aside import SetAside

_MOST_IN_A_ROW = 100


@dataclass(frozen=True, kw_only=True)
class ReadBatchesConfig:
    """In which batches recordings are read, and by how many threads."""

    micro_batch_size: int = 16
    """Recordings per forward pass and rank."""
    global_batch_size: int = 16
    """Recordings per optimizer step over all ranks."""
    valid_samples: int
    num_workers: int = 2
    """Threads that read audio."""
    read_ahead: int = 2
    """Micro-batches that are read while earlier ones are trained on."""

    def __post_init__(self) -> None:
        if self.micro_batch_size < 1 or self.global_batch_size % self.micro_batch_size:
            raise ConfigError(
                f"--global-batch-size {self.global_batch_size} must be a multiple of "
                f"--micro-batch-size {self.micro_batch_size}"
            )
        require_within(self, 1, "num_workers", "valid_samples")
        require_within(self, 0, "read_ahead")


def first_readable[Found](
    index: int, rows: int, load: Callable[[int], Found | Rejected]
) -> tuple[int, Found, list[Rejected]]:
    """Number and contents of the first of so many recordings, from `index` on, that can be read.

    Those before it come last.

    Raises:
        DataError: a hundred in a row cannot be read.
    """
    broken: list[Rejected] = []
    while len(broken) < _MOST_IN_A_ROW:
        found = load(index)
        if not isinstance(found, Rejected):
            return index, found, broken
        broken.append(found)
        index = (index + 1) % rows
    raise DataError(
        f"{len(broken)} recordings in a row cannot be read; are the manifest's paths still "
        f"right? The last, {broken[-1].id!r}: {broken[-1].detail}"
    )


class NumberedReadAhead[Batch]:
    """Items of an endless numbered series; the next few are read before they are asked for.

    `read` must be a pure function of the number, so that jumps only cost time.
    """

    def __init__(self, read: Callable[[int], Batch], ahead: int):
        self._read, self._ahead = read, ahead
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
        self._coming: dict[int, Future[Batch]] = {}

    def get(self, number: int) -> Batch:
        """Item `number`; what `read` raised for it is raised here."""
        wanted = range(number, number + 1 + self._ahead)
        for other in [n for n in self._coming if n not in wanted]:
            self._coming.pop(other).cancel()
        for n in wanted:
            if n not in self._coming:
                self._coming[n] = self._thread.submit(self._read, n)
        return self._coming.pop(number).result()

    def close(self) -> None:
        """Stop reading."""
        self._thread.shutdown(wait=True, cancel_futures=True)


class LazyBatches[Batch]:
    """`count` batches, each made when the loop comes to it."""

    def __init__(self, make: Callable[[int], Batch], count: int):
        self._make, self._count = make, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        return map(self._make, range(self._count))


class ReadBatches[Batch](Objective):
    """An objective whose micro-batches are recordings, read ahead.

    A step has the same micro-batches on any number of ranks; the first rank has the first ones.

    Args:
        train: a dataset with its `data` settings, `durations_s`, and `sizes` of its sources.
        weights: shares of the sources; none takes every recording once an epoch.
    """

    def __init__(
        self,
        train: Any,
        device: torch.device,
        set_aside: SetAside,
        weights: Sequence[float] = (),
    ):
        self.train, self.data, self.device, self._set_aside = train, train.data, device, set_aside
        self.rank, world_size = rank_and_size()
        self.samples_per_step = size = self.data.global_batch_size
        if size % (self.data.micro_batch_size * world_size):
            raise ConfigError(
                f"--global-batch-size {size} must be a multiple of "
                f"--micro-batch-size {self.data.micro_batch_size} x {world_size} processes"
            )
        self._micro_batches = size // (self.data.micro_batch_size * world_size)
        self._plan = make_plan(train.durations_s, train.sizes, weights, size, self.data.seed)
        self._reader = NumberedReadAhead(self._read, self.data.read_ahead)

    def batches(self, iteration: int) -> LazyBatches[Batch]:
        """This rank's micro-batches of step `iteration`."""
        first = iteration * self._micro_batches
        return LazyBatches(lambda n: self._take(first + n), self._micro_batches)

    @abstractmethod
    def read(self, indices: list[int], random: np.random.Generator) -> tuple[Batch, list[Rejected]]:
        """A micro-batch of recordings, and those that could not be read."""

    def _take(self, number: int) -> Batch:
        batch, broken = self._reader.get(number)
        self._set_aside.add(broken)
        return batch.to(self.device)

    def _read(self, number: int) -> tuple[Batch, list[Rejected]]:
        """Micro-batch `number` of this rank, counted from the first step on."""
        iteration, part = divmod(number, self._micro_batches)
        size, place = self.data.micro_batch_size, self.rank * self._micro_batches + part
        indices = self._plan.batch(iteration)[place * size : (place + 1) * size]
        random = np.random.default_rng((self.data.seed, iteration, place))
        return self.read(indices.tolist(), random)

    def before_save(self) -> None:
        """Write down which recordings could not be read."""
        self._set_aside.write()

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()
