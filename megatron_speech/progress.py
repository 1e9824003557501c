"""Progress of long work: a bar on a terminal, plain lines with rate and ETA elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts work done and shows it. Use as a context manager and call `advance`."""

    def __init__(self, description: str, total: float | None = None, unit: str = "items"):
        self.description = description
        self.total = total
        self.unit = unit
        self.done = 0.0
        self._started = time.monotonic()
        self._last_line = self._started
        self._bar = None

    def __enter__(self) -> "Progress":
        self._started = self._last_line = time.monotonic()
        if sys.stderr.isatty():
            from rich import progress as rich_progress
            from rich.console import Console

            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}"),
                rich_progress.BarColumn(),
                rich_progress.TaskProgressColumn(),
                rich_progress.TextColumn("{task.fields[rate]}"),
                rich_progress.TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self.description, total=self.total, rate="")
            self._bar.start()
        return self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Record `amount` more units as done; `note` is shown beside the rate."""
        self.done += amount
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=f"{self._rate()} {note}")
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._print_line(note)

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._last_line > self._started:
            self._print_line("")

    def _rate(self) -> str:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        return f"{self.done / elapsed:,.1f} {self.unit}/s"

    def _print_line(self, note: str) -> None:
        elapsed = time.monotonic() - self._started
        share, eta = "", ""
        if self.total:
            share = f" of {self.total:,.0f} ({100 * self.done / self.total:.0f}%)"
            remaining = elapsed / max(self.done, 1e-9) * (self.total - self.done)
            eta = f", ETA {remaining:.0f} s"
        line = (
            f"{self.description}: {self.done:,.0f}{share} {self.unit}, {self._rate()}{eta} {note}"
        )
        print(line.rstrip(), file=sys.stderr, flush=True)


def track(
    items: Iterable[Item], description: str, total: float | None = None, unit: str = "items"
) -> Iterator[Item]:
    """Yield `items` while showing how many have been handled."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with Progress(description, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()
