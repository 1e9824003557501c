"""One client's conversation: its sound collected, its questions answered in a thread."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import MegatronSpeechError, ServiceError
from ..events import Done, Heard, Timing
from .config import ServerConfig
from .outbox import Outbox
from .protocol import (
    SAMPLE_BYTES,
    AnswerWriter,
    Ask,
    Discard,
    EndedError,
    Hello,
    Interrupt,
    Message,
    ProtocolError,
    from_pcm,
    parse,
    say,
)

if TYPE_CHECKING:  # torch is the engine's
    from ..engine import ChatEngine

_LOG = logging.getLogger(__name__)
_PAUSE_S = 0.05
"""Before a question is overheard: who sends it whole asks at once."""


@dataclass
class _Question:
    """What is asked, and whether its answer is still wanted."""

    turn: int
    user: np.ndarray | str
    heard_s: float | None = None
    """Of the answer, when it was cancelled; set before `cancelled` is, read after."""
    cancelled: bool = False


class Conversation:
    """A session of the engine and the client that talks to it.

    Args:
        receive: waits for the client's next message.
        send: gives it one.
        threads: where the engine works, one thread for questions and one for transcripts.
    """

    def __init__(
        self,
        engine: "ChatEngine",
        config: ServerConfig,
        sample_rate_hz: int,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
        threads: Executor,
    ):
        self._engine, self._config, self._rate_hz = engine, config, sample_rate_hz
        self._receive, self._send, self._threads = receive, send, threads
        self._session = engine.session()
        self._outbox = Outbox()
        self._sound = bytearray()
        self._too_long = False
        self._turn = 0
        self._asked: asyncio.Queue[_Question] = asyncio.Queue(1)
        self._open: list[_Question] = []  # asked, and not answered to the end
        self._loop = asyncio.get_running_loop()
        self._to_read: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._looked_at = 0  # bytes of the sound that were read before it was complete
        self._looks = False  # whether it is to be read once more
        self._question = object()  # the one that is spoken now

    async def run(self) -> None:
        """Until the client leaves or its time is up; the engine's work has ended by then.

        Raises:
            ExceptionGroup: why it ended: TimeoutError (a client that takes nothing), EndedError
                (it says nothing), ProtocolError, what `receive` and `send` raise, and whatever
                the engine does.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._outbox.empty_into(self._send, self._config.stall_s))
                tasks.create_task(self._listen())
                tasks.create_task(self._answer_all())
                tasks.create_task(self._transcribe_all())
        finally:
            self._outbox.close()

    async def _listen(self) -> None:
        """Never waits for an answer: who does not read hears no interruption and no pong."""
        while True:
            try:
                async with asyncio.timeout(self._config.idle_s):
                    message = await self._receive()
            except TimeoutError:
                if not self._open:
                    silence = f"nothing was said for {self._config.idle_s:g} s"
                    raise EndedError("idle", silence) from None
                continue
            if isinstance(message, bytes):
                self._collect(message)
                continue
            match parse(message):
                case Ask(text):
                    await self._ask(text)
                case Discard():
                    self._forget_sound()
                case Interrupt(heard_s):
                    self._interrupt(heard_s)
                case Hello():
                    raise ProtocolError("a second hello; one is enough")

    def _collect(self, pcm: bytes) -> None:
        if len(pcm) % SAMPLE_BYTES:
            raise ProtocolError(
                f"{len(pcm)} bytes of sound are no whole number of 16-bit samples; send whole ones"
            )
        most = int(self._config.question_s * self._rate_hz) * SAMPLE_BYTES
        self._too_long = self._too_long or len(self._sound) + len(pcm) > most
        if self._too_long:
            self._sound.clear()
            return
        self._sound += pcm
        least = self._config.hearing_s * self._rate_hz * SAMPLE_BYTES
        # in steps that grow: each time all of the sound is read
        due = len(self._sound) - self._looked_at >= max(least, self._looked_at / 4)
        if least and due and not self._looks:
            self._looks = True
            self._to_read.put_nowait(partial(self._overhear, self._question))

    def _forget_sound(self) -> None:
        self._sound.clear()
        self._too_long, self._looked_at, self._looks = False, 0, False
        self._question = object()

    async def _ask(self, text: str | None) -> None:
        """Take the question; whatever was asked before it is interrupted by it."""
        self._interrupt(None)
        if not self._asked.empty():  # cancelled before its answer began
            older = self._asked.get_nowait()
            self._open.remove(older)
            await self._outbox.put(_never_begun(older))
        self._turn += 1
        too_long = self._too_long and text is None
        question = _Question(self._turn, from_pcm(self._sound) if text is None else text)
        self._forget_sound()
        if too_long:
            why = f"longer than {self._config.question_s:g} s; ask a shorter question"
            await self._outbox.put(say("refused", turn=question.turn, message=why))
            return
        self._open.append(question)
        self._asked.put_nowait(question)

    def _interrupt(self, heard_s: float | None) -> None:
        """Of the newest answer the client has played `heard_s`, and wants no more of it."""
        wanted = [question for question in self._open if not question.cancelled]
        for question in wanted:
            question.heard_s, question.cancelled = heard_s, True
        if wanted:
            self._outbox.drop_sound()
        # one that still waits for its turn is not the session's yet
        if self._open[:1] == wanted[:1] and (wanted or heard_s is not None):
            self._session.interrupt(heard_s)

    async def _answer_all(self) -> None:
        while True:
            question = await self._asked.get()
            await self._in_thread(self._answer, question)
            self._open.remove(question)

    async def _in_thread[T](self, work: Callable[..., T], *args: Any) -> T:
        """What `work` returns. If the conversation ends meanwhile, so has the work."""
        working = self._loop.run_in_executor(self._threads, _contained, work, *args)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:  # the thread takes its seat as long as it works
            self._outbox.close()
            self._interrupt(None)
            await asyncio.wait([working])
            raise

    def _answer(self, question: _Question) -> None:
        """In a thread: ask the engine, and hand on what it says."""
        turn, writer = question.turn, AnswerWriter(question.turn)
        codes = np.zeros(0, np.int64)
        if question.cancelled:
            self._outbox.put_from_thread(_never_begun(question))
            return
        try:
            for event in self._session.respond(question.user, self._rate_hz):
                if isinstance(event, Heard):
                    codes = event.codes
                if question.cancelled and not isinstance(event, Done):
                    self._session.interrupt(question.heard_s)  # the engine may not have begun
                    continue
                if isinstance(event, Timing | Done) and len(codes) and not question.cancelled:
                    # not sooner: it would delay the first sound
                    read = partial(self._transcribe, turn, codes)
                    self._loop.call_soon_threadsafe(self._to_read.put_nowait, read)
                    codes = codes[:0]
                for message in writer.messages(event):
                    self._outbox.put_from_thread(message)
        except ServiceError as error:
            _LOG.error("turn %s of a conversation: %s", turn, error)
            message = "the language model does not answer; try again in a moment"
            self._outbox.put_from_thread(say("refused", turn=turn, message=message))
        except MegatronSpeechError as error:
            self._outbox.put_from_thread(say("refused", turn=turn, message=str(error)))

    async def _transcribe_all(self) -> None:
        """One after the other, beside the answers: none waits for a transcript."""
        while True:
            read = await self._to_read.get()
            with contextlib.suppress(MegatronSpeechError):  # silence, or no recogniser
                await read()

    async def _transcribe(self, turn: int, codes: np.ndarray) -> None:
        text = await self._in_thread(self._engine.transcribe, codes)
        await self._outbox.put(say("transcript", turn=turn, text=text))

    async def _overhear(self, question: object) -> None:
        """Of a question that is being spoken, as much as there is now; of a later one nothing."""
        await asyncio.sleep(_PAUSE_S)
        if question is not self._question or not self._sound:  # asked, discarded, or too long
            return
        self._looked_at, self._looks = len(self._sound), False
        sound = from_pcm(self._sound)
        text = await self._in_thread(self._engine.overhear, sound, self._rate_hz)
        if question is self._question:
            await self._outbox.put(say("hearing", turn=self._turn + 1, text=text))


def _contained[T](work: Callable[..., T], *args: Any) -> T:
    """What `work` returns. A panic in a library, or its sys.exit, ends no event loop."""
    try:
        return work(*args)
    except Exception:
        raise
    except BaseException as error:
        raise RuntimeError(f"the engine raised {type(error).__name__}: {error}") from error


def _never_begun(question: _Question) -> str:
    return say("done", turn=question.turn, reason="interrupted", timing=None)
