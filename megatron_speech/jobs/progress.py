"""Progress of long work: a bar on a terminal, plain lines with rate and ETA elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypeVar

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts work done and shows it. Use as a context manager and call `advance`.

    `first` is what was done before, and counts for no rate. Without `lines` nothing is printed off
    a terminal: for work that prints lines of its own. Without `shown` nothing is: for all processes
    of a job but one.
    """

    _display: ClassVar[Any] = None
    """What is drawn now. Work within work is a second bar of the same display."""

    def __init__(
        self,
        description: str,
        total: float | None = None,
        unit: str = "items",
        *,
        first: float = 0.0,
        lines: bool = True,
        shown: bool = True,
    ):
        self.description = description
        self.total = total
        self.unit = unit
        self.done = self._first = first
        self._lines, self._shown = lines and shown, shown
        self._started = time.monotonic()
        self._last_line = self._started
        self._bar: Any = None
        self._is_outermost = False

    def __enter__(self) -> "Progress":
        self._started = self._last_line = time.monotonic()
        if self._shown and sys.stderr.isatty():
            self._is_outermost = Progress._display is None
            if self._is_outermost:
                Progress._display = _new_display()
                Progress._display.start()
            self._bar = Progress._display
            self._task = self._bar.add_task(
                self.description, total=self.total, completed=self.done, rate=""
            )
        return self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Record `amount` more units as done; `note` is shown beside the rate."""
        self.done += amount
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=f"{self._rate()} {note}")
        elif self._lines and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._print_line(note)

    def __exit__(self, *exception: object) -> None:
        if self._is_outermost:
            self._bar.stop()
            Progress._display = None
        elif self._bar is not None:
            self._bar.remove_task(self._task)
        elif self._last_line > self._started:  # lines were printed: say how it ended
            self._print_line("")

    def _rate(self) -> str:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        return f"{(self.done - self._first) / elapsed:,.1f} {self.unit}/s"

    def _print_line(self, note: str) -> None:
        elapsed = time.monotonic() - self._started
        share, eta = "", ""
        if self.total:
            share = f" of {self.total:,.0f} ({100 * self.done / self.total:.0f}%)"
            left = max(0.0, self.total - self.done)  # the last piece may be more than was wanted
            remaining = elapsed / max(self.done - self._first, 1e-9) * left
            eta = f", ETA {remaining:.0f} s"
        line = (
            f"{self.description}: {self.done:,.0f}{share} {self.unit}, {self._rate()}{eta} {note}"
        )
        print(line.rstrip(), file=sys.stderr, flush=True)


def _new_display() -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),  # what is written to a file stays there
    )


def track(
    items: Iterable[Item],
    description: str,
    total: float | None = None,
    unit: str = "items",
    *,
    shown: bool = True,
) -> Iterator[Item]:
    """Yield `items` while showing how many have been handled."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with Progress(description, total, unit, shown=shown) as progress:
        for item in items:
            yield item
            progress.advance()
