"""Connections to conversations: who is admitted, where they wait, how they leave."""

import asyncio
import hmac
import logging
from concurrent.futures import ThreadPoolExecutor

from fastapi import WebSocket, WebSocketDisconnect

from .config import ServerConfig
from .connections import AddressFullError, Connection
from .conversation import Conversation, EngineLike, SessionIdleError
from .lobby import Lobby, LobbyFullError, Ticket
from .protocol import Hello, Message, ProtocolError, parse, say

_LOG = logging.getLogger(__name__)
_REFUSED, _GOING_AWAY, _TRY_LATER, _FAILED = 1008, 1001, 1013, 1011  # RFC 6455


class EndedError(Exception):
    """A connection that ends, and what its client is told."""

    def __init__(self, reason: str, message: str, code: int):
        super().__init__(message)
        self.reason, self.message, self.code = reason, message, code


class ChatDoor:
    """All conversations with one engine.

    Args:
        engine: shared by all; each client gets a session of its own.

    Raises:
        ConfigError: the token file cannot be read.
    """

    def __init__(self, engine: EngineLike, config: ServerConfig):
        self.config = config
        self.lobby = Lobby(config.max_sessions, config.max_waiting)
        self._engine, self._token = engine, config.read_token()
        self._threads = ThreadPoolExecutor(  # an answer and a transcript for each conversation
            2 * config.max_sessions, thread_name_prefix="chat"
        )

    async def connect(self, socket: WebSocket) -> None:
        """One WebSocket from the handshake to its end. No failure leaves it."""
        origin = socket.headers.get("origin")  # every browser says it, other programs need not
        try:
            await socket.accept()  # a page is not told why a handshake failed
            if origin is not None and origin not in self.config.origins:
                _LOG.warning("refused a connection from a page of %.100r", origin)
                foreign = "pages of this address need the server's --allow-origin"
                raise EndedError("origin", foreign, _REFUSED)
            await self._talk(socket)
        except* EndedError as ended:
            await self._bid_farewell(socket, _first(ended))
        except* (WebSocketDisconnect, TimeoutError):
            await self._bid_farewell(socket, None)
        except* ProtocolError as error:
            last = EndedError("protocol", str(_first(error)), _REFUSED)
            await self._bid_farewell(socket, last)
        except* SessionIdleError:
            silence = f"nothing was said for {self.config.idle_s:g} s"
            await self._bid_farewell(socket, EndedError("idle", silence, _GOING_AWAY))
        except* Exception:
            _LOG.exception("a conversation failed; the others go on")
            failed = EndedError("failure", "this conversation failed; start another", _FAILED)
            await self._bid_farewell(socket, failed)

    async def _talk(self, socket: WebSocket) -> None:
        hello = await self._hello(socket)
        connection: Connection = socket.scope["state"]["connection"]
        try:
            with connection.conversation():
                await self._visit(socket, hello)
        except AddressFullError:
            many = f"{self.config.max_per_address} conversations come from your address already"
            raise EndedError("full", many, _TRY_LATER) from None

    async def _visit(self, socket: WebSocket, hello: Hello) -> None:
        try:
            ticket = self.lobby.join()
        except LobbyFullError:
            raise EndedError("full", "too many wait already; try again later", _TRY_LATER) from None
        try:
            await self._wait(socket, ticket)
            config = self.config
            limits = {n: getattr(config, n) for n in ("session_s", "idle_s", "question_s")}
            await _send(socket, say("ready", **limits))
            await self._converse(socket, hello)
        finally:
            self.lobby.leave(ticket)

    async def _hello(self, socket: WebSocket) -> Hello:
        try:
            async with asyncio.timeout(self.config.hello_s):
                message = await _receive(socket)
        except TimeoutError:
            raise EndedError("protocol", "no hello came", _REFUSED) from None
        hello = parse(message) if isinstance(message, str) else None
        if not isinstance(hello, Hello):
            raise ProtocolError("the first message must be a hello")
        if self._token is not None and not hmac.compare_digest(
            self._token.encode(), hello.token.encode()
        ):
            raise EndedError("token", "a token is needed, and this is not it", _REFUSED)
        return hello

    async def _wait(self, socket: WebSocket, ticket: Ticket) -> None:
        """Until the client has a seat; it is told its place whenever that changes."""
        told = 0
        while place := self.lobby.place(ticket):
            if place != told:
                told = place
                told_it = say("waiting", place=place, waiting=self.lobby.waiting)
                async with asyncio.timeout(self.config.stall_s):
                    await _send(socket, told_it)
            ticket.moved.clear()
            moved = asyncio.ensure_future(ticket.moved.wait())
            spoke = asyncio.ensure_future(_receive(socket))
            try:
                await asyncio.wait((moved, spoke), return_when=asyncio.FIRST_COMPLETED)
                if spoke.done():
                    spoke.result()  # raises if the client left
                    raise ProtocolError("a message before the server was ready")
            finally:
                moved.cancel()
                spoke.cancel()

    async def _converse(self, socket: WebSocket, hello: Hello) -> None:
        conversation = Conversation(
            self._engine,
            self.config,
            hello.sample_rate_hz,
            receive=lambda: _receive(socket),
            send=lambda message: _send(socket, message),
            threads=self._threads,
        )
        try:
            async with asyncio.timeout(self.config.session_s):
                await conversation.run()
        except TimeoutError:
            over = f"a conversation may last {self.config.session_s:g} s; start another"
            raise EndedError("session_length", over, _GOING_AWAY) from None

    async def _bid_farewell(self, socket: WebSocket, last: EndedError | None) -> None:
        """Tell the client why, if it still listens, and close."""
        try:
            async with asyncio.timeout(self.config.stall_s):
                if last is not None:
                    await _send(socket, say("ended", reason=last.reason, message=last.message))
                await socket.close(last.code if last else _GOING_AWAY)
        except (WebSocketDisconnect, RuntimeError, TimeoutError):
            pass  # gone before

    def close(self) -> None:
        """Start no more threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _first[E: Exception](group: ExceptionGroup[E]) -> E:
    """A single exception of a group, however deep."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, ExceptionGroup) else found


async def _receive(socket: WebSocket) -> Message:
    """The next message.

    Raises:
        WebSocketDisconnect: the client left.
    """
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    text = message.get("text")
    return text if text is not None else message["bytes"]


async def _send(socket: WebSocket, message: Message) -> None:
    if isinstance(message, str):
        await socket.send_text(message)
    else:
        await socket.send_bytes(message)
