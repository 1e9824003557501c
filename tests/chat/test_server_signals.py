"""The end of the server's process: soon, whatever the engine does, and at once if asked twice."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_speech.chat.server.config import ServerConfig
from tests.chat.fake_engine import Client, FakeEngine, free_port, serving, tone

ROOT = Path(__file__).resolve().parents[2]
STARTED = "Ctrl-C ends it"
SERVER = """
import sys, time
from megatron_speech import cli
from megatron_speech.chat.server.config import ServerConfig
from megatron_speech.chat.server.serve import serve
from tests.chat.fake_engine import FakeEngine, FakeSession

class Session(FakeSession):
    def _respond(self, user, rate_hz):
        if user == "never":
            time.sleep(90)
        yield from super()._respond(user, rate_hz)

class Engine(FakeEngine):
    def session(self):
        return Session(self)

cli.run(lambda: serve(Engine(pieces=1_000, piece_s=0.1), ServerConfig(port=int(sys.argv[1]))))
"""


def begin(port: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


async def ask_and_stop(config: ServerConfig, question: str, stop) -> None:
    """`stop` while the question is being answered."""
    async with Client(config) as client:
        await client.hear("ready")
        await client.say(type="ask", text=question)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(stop)


@pytest.mark.parametrize(
    ("question", "signals", "most_s", "ends"),
    [
        ("a", [signal.SIGINT], 5.0, 0),
        ("never", [signal.SIGINT], 5.0, 128 + signal.SIGINT),
        ("never", [signal.SIGINT, signal.SIGINT], 2.0, -signal.SIGINT),
        ("never", [signal.SIGTERM], 5.0, 128 + signal.SIGTERM),
    ],
    ids=["an answer", "a stuck model", "a stuck model, twice", "a stuck model, terminated"],
)
def test_the_server_ends_within_five_seconds_and_at_once_the_second_time(
    question, signals, most_s, ends
):
    config = ServerConfig(port=free_port())
    with begin(config.port) as server:
        try:
            assert server.stdout is not None
            assert STARTED in server.stdout.readline()
            took = 0.0

            def stop():
                nonlocal took
                for number in signals:
                    time.sleep(0.3)
                    begun = time.monotonic()
                    server.send_signal(number)
                server.wait(30)
                took = time.monotonic() - begun

            asyncio.run(ask_and_stop(config, question, stop))
            said = server.stdout.read()
        finally:
            server.kill()
    assert server.returncode == ends
    assert took < most_s
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_said_so():
    with serving(FakeEngine()) as config, begin(config.port) as server:
        out, _ = server.communicate(timeout=60)
    assert server.returncode == 2
    assert "Choose another --port" in out
    assert "Traceback" not in out


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, BaseException("panic")])
def test_what_a_library_raises_in_a_session_ends_no_server(error):
    engine = FakeEngine()
    engine.transcribe = lambda codes: (_ for _ in ()).throw(error)

    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            await client.ask(tone())
            ended = (await client.hear("ended"))[-1]
        async with Client(config) as client:
            await client.hear("ready")
        return ended

    with serving(engine) as config:
        assert asyncio.run(talk(config))["reason"] == "failure"
