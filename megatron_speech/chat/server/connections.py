"""Every connection from its first byte: how many there may be, and how long one may say nothing.

A connection counts as silent until its client has said hello, and again when its conversation is
over. Silent ones keep nobody out: where there are too many, the oldest gives way to the newest.
"""

import asyncio
import ipaddress
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...errors import ConfigError
from .config import ServerConfig
from .protocol import EndedError

_MOST_SILENT = 256
_FEWEST_SILENT = 16
_FILES = 64
"""That the process may have open beside its connections."""


class Connection:
    """One client, from the moment it was accepted to the moment its socket is closed.

    Args:
        abort: closes the socket, whatever state it is in; replaced when there is a better way.
    """

    def __init__(self, among: "Connections", network: str, abort: Callable[[], object]):
        self.config, self.network, self.abort = among.config, network, abort
        self._among = among
        self.answering = False
        """Whether it has sent a whole request."""
        self.talking = False
        """Whether it has a place among those served or waiting."""
        self._end: asyncio.TimerHandle | None = None

    def end_after(self, seconds: float) -> None:
        """Close it then, unless told otherwise or a conversation begins."""
        self._stop_clock()
        self._end = asyncio.get_running_loop().call_later(seconds, lambda: self.abort())

    @contextmanager
    def conversation(self) -> Iterator[None]:
        """While it lasts, the client is not silent.

        Raises:
            EndedError: there are `max_per_address` of its address already.
        """
        most = self.config.max_per_address
        if most and self._among.talking(self.network) >= most:
            raise EndedError("full", f"{most} conversations come from your address already")
        self.talking = True
        self._stop_clock()
        try:
            yield
        finally:
            self.talking = False
            if self in self._among.all:
                self.end_after(self.config.stall_s)

    def closed(self) -> None:
        """Its socket is closed, or about to be."""
        self._stop_clock()
        self._among.all.pop(self, None)

    def _stop_clock(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None


class Connections:
    """All of them. Used from the event loop alone.

    Raises:
        ConfigError: this process may not open as many files as the settings need.
    """

    def __init__(self, config: ServerConfig):
        self.config = config
        self.all: dict[Connection, None] = {}  # in order of arrival
        places = config.max_sessions + config.max_waiting
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = _MOST_SILENT if allowed == resource.RLIM_INFINITY else allowed - _FILES - places
        if room < _FEWEST_SILENT:
            raise ConfigError(
                f"{places} clients (--max-sessions and --max-waiting) need "
                f"{places + _FILES + _FEWEST_SILENT} open files, but this process may have "
                f"{allowed}; raise the limit (ulimit -n) or let fewer wait"
            )
        self._most_silent = min(_MOST_SILENT, room)

    def admit(self, host: str, abort: Callable[[], object]) -> Connection:
        """A client of `host` was accepted; it has `hello_s` to ask for something."""
        new = Connection(self, _network(host), abort)
        self.all[new] = None
        new.end_after(self.config.hello_s)
        silent = [one for one in self.all if not one.talking]
        nearby = [one for one in silent if one.network == new.network]
        if self.config.max_per_address and len(nearby) > self.config.max_per_address:
            self._close_oldest(nearby)
        elif len(silent) > self._most_silent:
            self._close_oldest(silent)
        return new

    def make_room(self) -> None:
        """Close the oldest that is silent."""
        if silent := [one for one in self.all if not one.talking]:
            self._close_oldest(silent)

    def end_all_after(self, seconds: float) -> None:
        """Close them then: who does not take a farewell holds nobody up."""
        for one in self.all:
            one.end_after(seconds)

    def talking(self, network: str) -> int:
        """Conversations of an address, those that wait for a place included."""
        return sum(one.talking and one.network == network for one in self.all)

    def _close_oldest(self, silent: list[Connection]) -> None:
        victim = min(silent, key=lambda one: one.answering)  # the first of those without a request
        victim.closed()
        victim.abort()


def _network(host: str) -> str:
    """What counts as one address: of IPv6, the 64 bits that a subscriber is given."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
        address = address.ipv4_mapped
    return str(address)
