"""What the training loop asks of a thing to be trained."""

from pathlib import Path
from typing import Protocol

from .checkpoint import PendingSave

Metrics = dict[str, float]


class Trainer(Protocol):
    """A model with its data, optimizer and parallelism: a backend of the one loop.

    Data is a pure function of the iteration, so a checkpoint needs no reader state: a resumed run
    asks for iteration n and gets what the uninterrupted run would have got. All methods are
    collective: every rank calls them.
    """

    samples_per_step: int
    """Samples in one global batch."""
    is_main_rank: bool
    """True on the one rank that logs and writes markers."""

    def train_step(self, iteration: int) -> Metrics:
        """Do optimizer step `iteration` (0-based). Keys are TensorBoard names: `lm loss`, ..."""
        ...

    def evaluate(self, iteration: int) -> Metrics:
        """Metrics on held-out data; empty when there is none."""
        ...

    def save(self, directory: Path) -> PendingSave | None:
        """Write everything an exact resume needs into `directory`, or begin to write it."""
        ...

    def load(self, directory: Path) -> None:
        """Read what `save` wrote, under any layout the backend can reshard from."""
        ...

    def any_rank(self, flag: bool) -> bool:
        """True on every rank if `flag` is true on any."""
        ...
