"""uvicorn's HTTP, with an end to what a client can send before, in and after its request."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_REQUEST_BYTES = 16 << 10
"""Of a request with its headers and whatever follows it; nothing here is asked by a body."""
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"connection: close\r\ncontent-length: 0\r\n\r\n"
)


class BoundedHttp(H11Protocol):
    """Hangs up on a request that is too large. Its `Connection` ends one that takes too long, to
    send or to be answered."""

    _received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Called when the client can be talked to; with TLS, after its handshake."""
        super().connection_made(transport)
        self.app_state["connection"].abort = transport.abort

    def data_received(self, data: bytes) -> None:
        """More of the request, or of whatever it is."""
        if self.transport.is_closing():
            return
        self._received += len(data)
        if self._received > MOST_REQUEST_BYTES:
            if self.cycle is None:
                self.transport.write(_TOO_LARGE)
            self.transport.close()
            return
        if self.cycle is None:  # what follows a request is not read, nor is it parsed
            super().data_received(data)
        self.app_state["connection"].answering = self.cycle is not None

    def send_400_response(self, msg: str) -> None:
        """It was no request, or what came with a good one spoils it."""
        if self.cycle is None:
            super().send_400_response(msg)
        else:
            self.cycle.disconnected = True  # or its answer would be sent as well
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client or the server hung up."""
        super().connection_lost(exc)
        self.app_state["connection"].closed()
