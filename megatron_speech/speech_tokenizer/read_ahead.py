"""Batches that are read by a thread while the one before is trained on."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor


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
