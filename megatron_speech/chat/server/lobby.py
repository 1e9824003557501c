"""Who is served and who waits: one list in order of arrival."""

import asyncio


class LobbyFullError(Exception):
    """Nobody more may wait."""


class Ticket:
    """A client's place; compared by identity."""

    def __init__(self) -> None:
        self.moved = asyncio.Event()
        """Set whenever somebody left."""


class Lobby:
    """The first `seats` clients of the list are served, the others wait their turn.

    Used from the event loop alone.
    """

    def __init__(self, seats: int, most_waiting: int):
        self.seats, self.most_waiting = seats, most_waiting
        self._tickets: list[Ticket] = []

    @property
    def served(self) -> int:
        """Clients that have a seat."""
        return min(len(self._tickets), self.seats)

    @property
    def waiting(self) -> int:
        """Clients that have none yet."""
        return len(self._tickets) - self.served

    def join(self) -> Ticket:
        """Take the last place.

        Raises:
            LobbyFullError: there are `most_waiting` who wait.
        """
        if len(self._tickets) >= self.seats + self.most_waiting:
            raise LobbyFullError
        ticket = Ticket()
        self._tickets.append(ticket)
        return ticket

    def place(self, ticket: Ticket) -> int:
        """0 has a seat, 1 is the next one to get one."""
        return max(0, self._tickets.index(ticket) - self.seats + 1)

    def leave(self, ticket: Ticket) -> None:
        """Give up a place; all behind it move up."""
        self._tickets.remove(ticket)
        for other in self._tickets:
            other.moved.set()
