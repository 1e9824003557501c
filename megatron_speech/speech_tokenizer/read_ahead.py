"""Batches that are read by a thread while the one before is trained on."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ..errors import ConfigError
from ..io.rejected import Rejected
from ..training.ddp import Objective
from .batch_plan import make_plan
from .set_aside import SetAside


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
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        world_size = dist.get_world_size() if dist.is_initialized() else 1
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
