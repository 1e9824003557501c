"""Connections to conversations: who is admitted, where they wait, how they leave."""

import asyncio
import hmac
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fastapi import WebSocket, WebSocketDisconnect

from .config import ServerConfig
from .conversation import Conversation
from .lobby import Lobby
from .protocol import EndedError, Hello, Message, ProtocolError, parse, say

if TYPE_CHECKING:
    from ..engine import ChatEngine

_LOG = logging.getLogger(__name__)
_GOING_AWAY = 1001
_CODES = {"full": 1013, "idle": _GOING_AWAY, "session_length": _GOING_AWAY, "failure": 1011}
_REFUSED = 1008
"""Of what ends for another reason than those (RFC 6455)."""


class ChatDoor:
    """All conversations with one engine.

    Args:
        engine: shared by all; each client gets a session of its own.

    Raises:
        ConfigError: the token file cannot be read.
    """

    def __init__(self, engine: "ChatEngine", config: ServerConfig):
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
                raise EndedError("origin", foreign)
            await self._talk(socket)
        except* EndedError as ended:
            await self._bid_farewell(socket, _first(ended))
        except* (WebSocketDisconnect, TimeoutError):
            await self._bid_farewell(socket, None)
        except* ProtocolError as error:
            await self._bid_farewell(socket, EndedError("protocol", str(_first(error))))
        except* Exception:
            _LOG.exception("a conversation failed; the others go on")
            failed = EndedError("failure", "this conversation failed; start another")
            await self._bid_farewell(socket, failed)

    async def _talk(self, socket: WebSocket) -> None:
        config, hello = self.config, await self._hello(socket)
        connection = socket.scope["state"]["connection"]
        with connection.conversation(), self.lobby.visit() as moved:
            await self._wait(socket, moved)
            limits = {n: getattr(config, n) for n in ("session_s", "idle_s", "question_s")}
            await _send(socket, say("ready", **limits))
            conversation = Conversation(
                self._engine,
                config,
                hello.sample_rate_hz,
                receive=lambda: _receive(socket),
                send=lambda message: _send(socket, message),
                threads=self._threads,
            )
            try:
                async with asyncio.timeout(config.session_s):
                    await conversation.run()
            except TimeoutError:
                over = f"a conversation may last {config.session_s:g} s; start another"
                raise EndedError("session_length", over) from None

    async def _hello(self, socket: WebSocket) -> Hello:
        try:
            async with asyncio.timeout(self.config.hello_s):
                message = await _receive(socket)
        except TimeoutError:
            raise EndedError("protocol", "no hello came") from None
        hello = parse(message) if isinstance(message, str) else None
        if not isinstance(hello, Hello):
            raise ProtocolError("the first message must be a hello")
        if self._token is not None and not hmac.compare_digest(
            self._token.encode(), hello.token.encode()
        ):
            raise EndedError("token", "a token is needed, and this is not it")
        return hello

    async def _wait(self, socket: WebSocket, moved: asyncio.Event) -> None:
        """Until the client has a seat; it is told its place whenever that changes."""
        told = 0
        while place := self.lobby.place(moved):
            if place != told:
                told = place
                told_it = say("waiting", place=place, waiting=self.lobby.waiting)
                async with asyncio.timeout(self.config.stall_s):
                    await _send(socket, told_it)
            moved.clear()
            left = asyncio.ensure_future(moved.wait())
            spoke = asyncio.ensure_future(_receive(socket))
            try:
                await asyncio.wait((left, spoke), return_when=asyncio.FIRST_COMPLETED)
                if spoke.done():
                    spoke.result()  # raises if the client left
                    raise ProtocolError("a message before the server was ready")
            finally:
                left.cancel()
                spoke.cancel()

    async def _bid_farewell(self, socket: WebSocket, last: EndedError | None) -> None:
        """Tell the client why, if it still listens, and close."""
        try:
            async with asyncio.timeout(self.config.stall_s):
                if last is not None:
                    await _send(socket, say("ended", reason=last.reason, message=last.message))
                code = _CODES.get(last.reason, _REFUSED) if last else _GOING_AWAY
                await socket.close(code)
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
