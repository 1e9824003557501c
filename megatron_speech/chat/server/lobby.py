"""Who is served and who waits: one list in order of arrival."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from .protocol import EndedError


class Lobby:
    """The first `seats` clients of the list are served, the others wait their turn.

    Used from the event loop alone.
    """

    def __init__(self, seats: int, most_waiting: int):
        self.seats, self.most_waiting = seats, most_waiting
        self._visitors: list[asyncio.Event] = []

    @property
    def served(self) -> int:
        """Clients that have a seat."""
        return min(len(self._visitors), self.seats)

    @property
    def waiting(self) -> int:
        """Clients that have none yet."""
        return len(self._visitors) - self.served

    @contextmanager
    def visit(self) -> Iterator[asyncio.Event]:
        """Take the last place and give it up in the end; the event is set whenever somebody left.

        Raises:
            EndedError: there are `most_waiting` who wait.
        """
        if len(self._visitors) >= self.seats + self.most_waiting:
            raise EndedError("full", "too many wait already; try again later")
        moved = asyncio.Event()
        self._visitors.append(moved)
        try:
            yield moved
        finally:
            self._visitors.remove(moved)
            for other in self._visitors:
                other.set()

    def place(self, visitor: asyncio.Event) -> int:
        """0 has a seat, 1 is the next one to get one."""
        return max(0, self._visitors.index(visitor) - self.seats + 1)
