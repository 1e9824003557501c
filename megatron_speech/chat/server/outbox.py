"""Messages on their way to one client: few at a time, so that a slow client slows its answer."""

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Awaitable, Callable

from .protocol import Message

_LIMIT = 16  # messages; sound comes in pieces of 0.8 s


class Outbox:
    """A bounded queue with one end in the event loop and one in the thread that answers."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Message] = asyncio.Queue(_LIMIT)
        self._closed = False

    async def put(self, message: Message) -> None:
        """Wait for room; what is put into a closed outbox is lost."""
        if not self._closed:
            await self._queue.put(message)

    def put_from_thread(self, message: Message) -> None:
        """The same, from another thread than the event loop's."""
        if self._closed:
            return
        waiting = asyncio.run_coroutine_threadsafe(self.put(message), self._loop)
        with contextlib.suppress(concurrent.futures.CancelledError):  # the event loop ends
            waiting.result()

    async def empty_into(self, send: Callable[[Message], Awaitable[None]], stall_s: float) -> None:
        """Send messages for ever.

        Raises:
            TimeoutError: the client did not take a message within `stall_s`.
        """
        while True:
            message = await self._queue.get()
            async with asyncio.timeout(stall_s):
                await send(message)

    def drop_sound(self) -> None:
        """Forget sound that was not sent yet: the client does not want it any more."""
        kept = []
        while not self._queue.empty():
            message = self._queue.get_nowait()
            if isinstance(message, str):
                kept.append(message)
        for message in kept:
            self._queue.put_nowait(message)

    def close(self) -> None:
        """Lose all messages, and let those go who wait for room."""
        self._closed = True
        while not self._queue.empty():
            self._queue.get_nowait()
