"""uvicorn's WebSocket, with an end to what a client can pile up below the size of a message."""

from asyncio.transports import BaseTransport

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from .connections import Connection

_MOST_FRAGMENTS = 1024
_MOST_UNSENT = 1 << 20
"""Bytes; answers wait long before, pongs would not."""
_FRAMES_PER_S, _FRAMES_AT_ONCE = 500, 2_000
"""More than any page sends, also after its network stood still."""
_PIECE = 4 << 10
"""Bytes that are unpacked before frames are counted."""


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """Hangs up on a message of too many fragments, which may be empty, on more frames than
    somebody speaks, and on pings whose sender reads no pong."""

    def connection_made(self, transport: BaseTransport) -> None:
        """Called when a request asked for a WebSocket."""
        super().connection_made(transport)
        self._connection: Connection = self.app_state["connection"]
        self._connection.answering = False
        self._stall_s = self._connection.config.stall_s
        self._connection.end_after(self._connection.config.hello_s + self._stall_s)
        self._frames_left, self._counted_at = float(_FRAMES_AT_ONCE), self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client or the server hung up."""
        super().connection_lost(exc)
        self._connection.closed()

    def data_received(self, data: bytes) -> None:
        """Frames, or a part of one."""
        if self.transport.is_closing():
            return
        for start in range(0, len(data), _PIECE):
            super().data_received(data[start : start + _PIECE])
            if self.transport.is_closing():
                break
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(b"".join(self.conn.data_to_send()))  # nobody else would
            self.transport.close()
        if self.transport.is_closing():
            self._connection.end_after(self._stall_s)

    def handle_events(self) -> None:
        """All frames of a piece."""
        now = self.loop.time()
        self._frames_left += _FRAMES_PER_S * (now - self._counted_at)
        self._frames_left = min(self._frames_left, _FRAMES_AT_ONCE) - len(self.conn.events)
        self._counted_at = now
        if self._frames_left < 0:
            self._fail(CloseCode.POLICY_VIOLATION, "too many frames at once")
        else:
            super().handle_events()

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

    def send_receive_event_to_app(self) -> None:
        """A message is whole."""
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self._fail(CloseCode.INVALID_DATA, "a text message is not UTF-8")
                return
        super().send_receive_event_to_app()

    async def send(self, message: ASGISendEvent) -> None:
        """An answer may be on its way when a connection ends for one of these reasons."""
        await self.writable.wait()
        if self.close_sent:
            raise ClientDisconnected
        await super().send(message)

    def keepalive_timeout(self) -> None:
        """A ping was not answered; nor may be what else was sent."""
        super().keepalive_timeout()
        self._connection.end_after(1.0)

    def handle_parser_exception(self) -> None:
        """No frame, or too many."""
        if self.conn.close_sent is None:  # not even accepted yet
            self.transport.abort()
        else:
            super().handle_parser_exception()

    def _fail(self, code: CloseCode, why: str) -> None:
        self.conn.fail(code, why)
        self.handle_parser_exception()
