"""uvicorn's server, which counts a connection before its first byte and ends when it is told to."""

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Coroutine
from types import FrameType

import uvicorn

from ...errors import ConfigError
from .connections import Connections
from .requests import BoundedHttp

_LOG = logging.getLogger(__name__)
_LEAVE_S = 4.0
"""From the signal to the end of the process, whatever the engine's threads do."""
_FAREWELL_S = 1.0
_RETRY_S = 1.0
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""Of localhost, where IPv6 is turned off."""


class BoundedServer(uvicorn.Server):
    """Accepts its connections itself: uvicorn hears of one only when TLS has shaken hands."""

    def __init__(self, config: uvicorn.Config, connections: Connections):
        super().__init__(config)
        self.greeting = ""
        """Printed once it listens."""
        self._connections = connections
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen.

        Raises:
            ConfigError: host and port cannot be listened on.
        """
        listeners = sockets or await self._bind()
        await self.lifespan.startup()
        self.servers = []  # none of asyncio's: uvicorn has nothing to close
        for listener in listeners:
            self._begin(self._accept_all(listener))
        self.started = True
        if self.greeting:
            print(self.greeting, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen no more, and end what was begun."""
        for task in self._tasks:
            task.cancel()
        self._connections.end_all_after(_FAREWELL_S)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ctrl-C, or a request to terminate: the first ends the server soon, the second at once."""
        super().handle_exit(sig, frame)
        signal.signal(sig, signal.SIG_DFL)
        # a thread of the engine may never return, and Python would wait for it
        clock = threading.Timer(_LEAVE_S, _leave, [sig])
        clock.daemon = True
        clock.start()

    async def _bind(self) -> list[socket.socket]:
        host, port = self.config.host, self.config.port
        listeners: list[socket.socket] = []
        failed: OSError | None = None
        try:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            for family, address in dict.fromkeys((family, at) for family, *_, at in found):
                try:
                    backlog = self.config.backlog
                    new = socket.create_server(address, family=family, backlog=backlog)
                    new.setblocking(False)
                    listeners.append(new)
                except OSError as error:
                    if error.errno not in _NO_SUCH_FAMILY:
                        raise
                    failed = error
            if not listeners and failed is not None:
                raise failed
        except OSError as error:
            for listener in listeners:
                listener.close()
            raise ConfigError(
                f"cannot listen at --host {host} --port {port}: {error}; is another server "
                "running there? Choose another --port"
            ) from None
        return listeners

    async def _accept_all(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    client, address = await loop.sock_accept(listener)
                except OSError as error:  # too many files are open, mostly
                    _LOG.error("no connection can be accepted: %s", error)
                    self._connections.make_room()
                    await asyncio.sleep(_RETRY_S)
                    continue
                self._begin(self._take(client, address[0]))
                await asyncio.sleep(0)  # those before it are read in between

    async def _take(self, client: socket.socket, host: str) -> None:
        """Until the client can send its request."""
        task = asyncio.current_task()
        assert task is not None
        connection = self._connections.admit(host, task.cancel)
        state = {**self.lifespan.state, "connection": connection}
        protocol = BoundedHttp(self.config, self.server_state, state)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, client, ssl=self.config.ssl
            )
        except OSError as error:  # of TLS too
            _LOG.debug("%s left before its request: %s", host, error)
        finally:
            if protocol.transport is None:
                connection.closed()
                client.close()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _leave(sig: int) -> None:
    print("left without waiting for the model, which does not return", file=sys.stderr, flush=True)
    os._exit(128 + sig)
