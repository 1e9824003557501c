"""An engine whose answers can be followed by hand, and a server around it on a real socket."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
from websockets.asyncio.client import connect

from megatron_speech.chat.events import AudioChunk, Done, Heard, TextDelta, Timing
from megatron_speech.chat.server.config import ServerConfig
from megatron_speech.chat.server.serve import make_server
from megatron_speech.errors import AudioError

RATE_HZ = 16_000
CHUNK = 1_600  # samples


class FakeEngine:
    """Answers with `pieces` of a word and 0.1 s of sound, `piece_s` apart.

    A question whose peak is above 0.9 breaks its session; silence is refused. A question waits
    until `tokenised` is set, as it is at first, and a transcript takes `transcribe_s`, whatever is
    interrupted meanwhile.
    """

    def __init__(
        self,
        pieces: int = 3,
        piece_s: float = 0.0,
        transcribe_s: float = 0.0,
    ):
        self.pieces, self.piece_s = pieces, piece_s
        self.transcribe_s = transcribe_s
        self.tokenised = threading.Event()
        self.tokenised.set()
        self.transcribed = 0
        self.questions: list = []
        self.interruptions: list[float | None] = []
        self.working = 0
        self.pieces_made = 0

    def session(self) -> "FakeSession":
        return FakeSession(self)

    def overhear(self, audio: np.ndarray, sample_rate_hz: int) -> str:
        if abs(audio).max() < 1e-4:
            raise AudioError("the question is silent")
        return f"{len(audio) / sample_rate_hz:g} s"

    def transcribe(self, codes: np.ndarray) -> str:
        self.transcribed += 1
        time.sleep(self.transcribe_s)
        return f"{len(codes)} codes"


class FakeSession:
    """See FakeEngine."""

    def __init__(self, engine: FakeEngine):
        self._engine, self._stop = engine, threading.Event()

    def respond(self, user, sample_rate_hz=RATE_HZ):
        engine = self._engine
        self._stop.clear()
        engine.working += 1
        try:
            yield from self._respond(user, sample_rate_hz)
        finally:
            engine.working -= 1

    def _respond(self, user, rate_hz):
        engine = self._engine
        spoken = not isinstance(user, str)
        engine.questions.append((user, rate_hz))
        if spoken and (not len(user) or abs(user).max() < 1e-4):
            raise AudioError("the question is silent")
        if spoken and abs(user).max() > 0.9:
            raise RuntimeError("the engine broke")
        engine.tokenised.wait(20)
        seconds = len(user) / rate_hz if spoken else 0.0
        yield Heard(codes=np.zeros(round(seconds * 12.5), np.int64), duration_s=seconds)
        timing = Timing(tokenise_s=0.01, prefill_s=0.02, first_audio_s=0.05, audio_s=0.1)
        for piece in range(engine.pieces):
            if self._stop.wait(engine.piece_s):
                break
            engine.pieces_made += 1
            yield TextDelta(text=f"w{piece} ")
            samples = np.full(CHUNK, (piece + 1) / 1000, np.float32)
            yield AudioChunk(samples=samples, sample_rate_hz=RATE_HZ)
            if piece == 0:
                yield timing
        yield Done(reason="interrupted" if self._stop.is_set() else "stop", timing=timing)

    def interrupt(self, heard_s=None):
        self._engine.interruptions.append(heard_s)
        self._stop.set()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(engine, **settings) -> Iterator[ServerConfig]:
    """A server in a thread; on leaving it has ended."""
    config = ServerConfig(port=free_port(), **settings)
    server = make_server(engine, config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield config
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def until(true, seconds: float = 20.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Client:
    """One end of a WebSocket, as the page would use it."""

    def __init__(self, config: ServerConfig, **hello):
        self._config = config
        self._hello = {"type": "hello", "sample_rate_hz": RATE_HZ, **hello}

    async def __aenter__(self) -> "Client":
        url = f"ws://127.0.0.1:{self._config.port}/chat"
        self.socket = await connect(url, max_size=None, max_queue=None)
        await self.say(**self._hello)
        return self

    async def __aexit__(self, *_) -> None:
        await self.socket.close()

    async def say(self, **message) -> None:
        await self.socket.send(json.dumps(message))

    async def ask(self, sound: np.ndarray) -> None:
        await self.socket.send((sound * 32_767).astype("<i2").tobytes())
        await self.say(type="ask")

    async def next(self):
        """A dict, or the samples of binary messages."""
        async with asyncio.timeout(30):
            message = await self.socket.recv()
        if isinstance(message, bytes):
            return np.frombuffer(message, "<i2")
        return json.loads(message)

    async def hear(self, *kinds: str) -> list:
        """All messages up to the first of these kinds."""
        heard = []
        while True:
            heard.append(await self.next())
            if isinstance(heard[-1], dict) and heard[-1]["type"] in kinds:
                return heard


def tone(seconds: float = 0.4, peak: float = 0.5) -> np.ndarray:
    """Something that is no silence."""
    return peak * np.sin(np.arange(int(seconds * RATE_HZ)) / 10)


def types(messages: list) -> list[str]:
    """Their types; sound is "pcm"."""
    return [m["type"] if isinstance(m, dict) else "pcm" for m in messages]
