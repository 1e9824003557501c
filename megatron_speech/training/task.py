"""What the training loop asks of a thing to be trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

Metrics = dict[str, float]
StepCheck = Callable[[Metrics], str | None]
"""Says what is wrong with a step from its losses and `grad-norm`; None: nothing."""


def healthy(metrics: Metrics) -> str | None:
    """The check that finds no fault."""


class PendingSave(Protocol):
    """A checkpoint that is written while training goes on."""

    def done(self, wait: bool) -> bool:
        """Whether it is written by all ranks, after waiting for it if asked to; collective."""
        ...


class Trainer(Protocol):
    """A model with its data, optimizer and parallelism: a backend of the one loop.

    Data is a pure function of the batch's number, so a checkpoint needs no reader state: a resumed
    run asks for batch n and gets what the uninterrupted run would have got. All methods are
    collective: every rank calls them.
    """

    samples_per_step: int
    """Samples in one global batch."""
    is_main_rank: bool
    """True on the one rank that logs and writes markers."""

    def train_step(
        self, iteration: int, batch: int | None = None, judge: StepCheck = healthy
    ) -> Metrics:
        """Do optimizer step `iteration` (0-based). Keys are TensorBoard names: `lm loss`, ...

        `batch` is the number of the global batch in the order of the data, `iteration` if not
        given. A step that `judge` finds fault with changes no weights; `number of skipped
        iterations` is then 1, on every rank.
        """
        ...

    def interval(self, seconds: float) -> Metrics:
        """Figures of the steps since the last call, which took `seconds`: throughput, memory."""
        ...

    def evaluate(self, iteration: int) -> Metrics:
        """Metrics on held-out data; empty when there is none."""
        ...

    def save(self, directory: Path) -> PendingSave | None:
        """Write everything an exact resume needs into `directory`, or begin to write it."""
        ...

    def load(self, directory: Path, own: bool = True) -> None:
        """Read what `save` wrote, under any layout the backend can reshard from."""
        ...

    def any_rank(self, flag: bool) -> bool:
        """True on every rank if `flag` is true on any."""
        ...
