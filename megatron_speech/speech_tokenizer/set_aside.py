"""Recordings that a training could not use: of all ranks and all its starts, in one file."""

from collections.abc import Iterable
from pathlib import Path

from ..io.rejected import Rejected, count_reasons, describe_counts, read_rejected, write_rejected
from ..training.ranks import gather_objects, rank_and_size


class SetAside:
    """Collects items and writes them, without repeats and by id, beside the checkpoints.

    Written before each checkpoint, the file names all that was met up to it, however often the
    run was killed. `goes_on` says that the run continues and the file's items are its own.
    """

    def __init__(self, path: Path, goes_on: bool):
        self.path = path
        self._items: dict[Rejected, None] = {}
        self._written = 0
        if goes_on and path.exists():
            self.add(read_rejected(path))
            self._written = len(self._items)

    def add(self, items: Iterable[Rejected]) -> None:
        """Set items aside; those known already do not count again."""
        self._items |= dict.fromkeys(items)

    def write(self) -> None:
        """Gather the items of all ranks, and say on rank 0 what came since the last time.

        Every rank must call it.
        """
        for part in gather_objects(list(self._items)):
            self.add(part)
        if rank_and_size()[0] == 0 and len(self._items) != self._written:
            items = sorted(self._items, key=lambda item: (item.id, item.reason, item.detail))
            write_rejected(self.path, items)
            counts = describe_counts(count_reasons(items))
            print(f"recordings set aside: {counts}; which ones: {self.path}", flush=True)
        self._written = len(self._items)
