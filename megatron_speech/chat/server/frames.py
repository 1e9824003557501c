"""uvicorn's WebSocket, with an end to what a client can pile up below the size of a message."""

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

_MOST_FRAGMENTS = 1024
_MOST_UNSENT = 1 << 20
"""Bytes; answers wait long before, pongs would not."""


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """Hangs up on a message of too many fragments, which may be empty, and on pings whose sender
    reads no pong."""

    def handle_cont(self, event: Frame) -> None:
        """A further fragment."""
        super().handle_cont(event)
        if len(self.frames) > _MOST_FRAGMENTS:
            self.transport.abort()

    def handle_ping(self) -> None:
        """Answer it."""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > _MOST_UNSENT:
            self.transport.abort()
