"""The server with a fake engine: what clients hear, and what they cannot do to each other."""

import asyncio
import contextlib
import json

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from megatron_speech.chat.server.config import ServerConfig
from megatron_speech.chat.server.serve import make_server
from megatron_speech.errors import ConfigError
from tests.chat.fake_engine import Client, FakeEngine, serving, tone, types, until


def test_a_question_is_answered_in_text_and_sound():
    engine = FakeEngine()

    async def talk(config):
        async with Client(config) as client:
            (ready,) = await client.hear("ready")
            await client.ask(tone())
            answer = await client.hear("done")
            if "transcript" not in types(answer):  # it may come after
                answer += await client.hear("transcript")
            return ready, answer

    with serving(engine) as config:
        ready, answer = asyncio.run(talk(config))
    assert ready["question_s"] == config.question_s
    ((question, rate_hz),) = engine.questions
    assert rate_hz == 16_000
    assert np.abs(question - tone()).max() < 1e-4
    by_type = {m["type"]: m for m in answer if isinstance(m, dict)}
    assert by_type["heard"]["duration_s"] == 0.4
    assert by_type["transcript"]["text"] == "5 codes"
    assert by_type["timing"]["first_audio_s"] == 0.05
    assert by_type["done"]["reason"] == "stop"
    texts = [m for m in answer if isinstance(m, dict) and m["type"] == "text"]
    assert "".join(m["text"] for m in texts) == "w0 w1 w2 "
    assert [m["at_s"] for m in texts] == [0.0, 0.1, 0.2]  # in step with the sound
    sound = np.concatenate([m for m in answer if not isinstance(m, dict)])
    assert np.array_equal(sound, np.repeat([33, 66, 98], 1_600))
    assert types(answer).index("sound") < types(answer).index("pcm")
    assert {m["turn"] for m in by_type.values()} == {1}


def test_sound_comes_in_any_pieces_and_can_be_discarded():
    engine = FakeEngine()

    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            pcm = (tone() * 32_767).astype("<i2").tobytes()
            await client.socket.send(b"\1\0" * 999)
            await client.say(type="discard")
            for start in range(0, len(pcm), 222):
                await client.socket.send(pcm[start : start + 222])
            await client.say(type="ask")
            await client.hear("done")
            await client.say(type="ask", text="and then?")
            return await client.hear("done")

    with serving(engine) as config:
        answer = asyncio.run(talk(config))
    assert len(engine.questions[0][0]) == len(tone())
    assert engine.questions[1][0] == "and then?"
    assert answer[-1]["turn"] == 2


def test_a_recogniser_that_breaks_ends_its_session():
    engine = FakeEngine()
    engine.transcribe = lambda codes: 1 / 0

    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            await client.ask(tone())
            return (await client.hear("ended"))[-1]

    with serving(engine) as config:
        assert asyncio.run(talk(config))["reason"] == "failure"


@pytest.mark.parametrize("sound", [np.zeros(1_600), np.zeros(0)], ids=["silence", "nothing at all"])
def test_a_question_that_cannot_be_answered_is_refused_and_the_next_is_not(sound):
    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            await client.ask(sound)
            refused = (await client.hear("refused"))[-1]
            await client.ask(tone())
            return refused, (await client.hear("done"))[-1]

    with serving(FakeEngine()) as config:
        refused, done = asyncio.run(talk(config))
    assert "silent" in refused["message"]
    assert done["reason"] == "stop"


def test_too_long_a_question_takes_no_memory_and_is_refused():
    engine = FakeEngine()

    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            for _ in range(50):
                await client.socket.send((tone(0.1) * 32_767).astype("<i2").tobytes())
            await client.say(type="ask")
            refused = (await client.hear("refused"))[-1]
            await client.ask(tone())
            await client.hear("done")
            return refused

    with serving(engine, question_s=1.0) as config:
        assert "longer than 1 s" in asyncio.run(talk(config))["message"]
    assert len(engine.questions) == 1


BAD = {
    "no JSON": "hello?",
    "no object": "[1, 2]",
    "deep": "[" * 100_000,
    "unknown type": json.dumps({"type": "sing"}),
    "no type": "{}",
    "heard before": json.dumps({"type": "interrupt", "heard_s": -1}),
    "heard NaN": '{"type": "interrupt", "heard_s": NaN}',
    "heard text": json.dumps({"type": "interrupt", "heard_s": "all"}),
    "asked number": json.dumps({"type": "ask", "text": 7}),
    "asked a book": json.dumps({"type": "ask", "text": "a" * 5_000}),
    "second hello": json.dumps({"type": "hello", "sample_rate_hz": 16_000}),
    "half a sample": b"\0\1\2",
}


@pytest.mark.parametrize("name", BAD)
def test_garbage_ends_its_connection_with_a_reason(name):
    async def talk(config):
        async with Client(config) as good, Client(config) as bad:
            await good.hear("ready")
            await bad.hear("ready")
            await bad.socket.send(BAD[name])
            ended = (await bad.hear("ended"))[-1]
            with pytest.raises(ConnectionClosed):
                await bad.next()
            await good.ask(tone())
            await good.hear("done")
            return ended

    with serving(FakeEngine()) as config:
        ended = asyncio.run(talk(config))
    assert ended["reason"] == "protocol"
    assert ended["message"]


def test_a_message_of_100_mb_is_not_read():
    async def talk(config):
        async with Client(config) as good, Client(config) as bad:
            await good.hear("ready")
            await bad.hear("ready")
            with contextlib.suppress(ConnectionClosed):  # it may close while we still send
                await bad.socket.send(bytes(100 << 20))
            with pytest.raises(ConnectionClosed) as closed:
                await bad.next()
            await good.ask(tone())
            await good.hear("done")
            return closed.value

    with serving(FakeEngine()) as config:
        closed = asyncio.run(talk(config))
    assert closed.rcvd is None or closed.rcvd.code == 1009


@pytest.mark.parametrize("rate", [0, 100, 10**9, 16_000.0, "16000", None, True])
def test_a_wrong_rate_is_refused(rate):
    async def talk(config):
        async with Client(config, sample_rate_hz=rate) as client:
            return (await client.hear("ended"))[-1]

    with serving(FakeEngine()) as config:
        assert "sample_rate_hz" in asyncio.run(talk(config))["message"]


def test_foreign_pages_may_not_connect_and_are_told():
    async def told(config, origin):
        async with connect(f"ws://127.0.0.1:{config.port}/chat", origin=origin) as socket:
            with contextlib.suppress(ConnectionClosed):
                await socket.send(json.dumps({"type": "hello", "sample_rate_hz": 16_000}))
            first = json.loads(await socket.recv())
            return first.get("reason", first["type"])

    async def talk(config):
        port = config.port
        assert await told(config, f"http://localhost:{port}") == "ready"
        assert await told(config, "https://chat.example.org") == "ready"
        assert await told(config, None) == "ready"  # no browser
        assert await told(config, "https://evil.example") == "origin"
        assert await told(config, f"http://evil.example:{port}") == "origin"
        assert await told(config, f"http://localhost:{port + 1}") == "origin"
        assert await told(config, "null") == "origin"

    settings = {"allow_origin": ("https://chat.example.org",), "max_sessions": 8}
    with serving(FakeEngine(), **settings) as config:
        asyncio.run(talk(config))


def test_an_address_has_no_more_conversations_than_it_may():
    async def talk(config):
        async with Client(config) as one, Client(config) as two:
            await one.hear("ready")
            await two.hear("ready")
            async with Client(config) as three:
                ended = (await three.hear("ended"))[-1]
            await one.socket.close()
            await asyncio.sleep(0.2)
            async with Client(config) as again:
                await again.hear("ready")
            return ended

    with serving(FakeEngine(), max_sessions=4, max_per_address=2) as config:
        ended = asyncio.run(talk(config))
    assert ended["reason"] == "full"
    assert "2 conversations come from your address" in ended["message"]


def test_a_token_is_asked_for(tmp_path):
    (tmp_path / "token").write_text("pass-wörd\n")

    async def talk(config, **hello):
        async with Client(config, **hello) as client:
            return (await client.hear("ended", "ready"))[-1]

    with serving(FakeEngine(), token_file=tmp_path / "token") as config:
        assert asyncio.run(talk(config))["reason"] == "token"
        assert asyncio.run(talk(config, token="pass-word"))["reason"] == "token"
        assert asyncio.run(talk(config, token="pass-wörd"))["type"] == "ready"


def test_settings_that_cannot_work_are_refused(tmp_path):
    for bad in (
        {"max_sessions": 0},
        {"max_per_address": -1},
        {"session_s": float("inf")},
        {"hearing_s": -1.0},
        {"port": 70_000},
        {"port": 0},
        {"allow_origin": ("chat.example.org",)},
        {"ssl_certfile": tmp_path},
    ):
        with pytest.raises(ConfigError):
            ServerConfig(**bad)
    (tmp_path / "no.pem").write_text("no certificate")
    for path in (tmp_path / "none.pem", tmp_path / "no.pem"):
        with pytest.raises(ConfigError, match="PEM"):
            make_server(FakeEngine(), ServerConfig(ssl_certfile=path, ssl_keyfile=path))
    with pytest.raises(ConfigError, match="cannot be read"):
        ServerConfig(token_file=tmp_path / "none").read_token()
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        ServerConfig(token_file=tmp_path / "empty").read_token()


def test_who_says_nothing_is_sent_away():
    async def talk(config):
        url = f"ws://127.0.0.1:{config.port}/chat"
        async with connect(url) as stranger, Client(config) as client:
            first = json.loads(await stranger.recv())
            return first, (await client.hear("ended"))[-1]

    with serving(FakeEngine(), hello_s=0.2, idle_s=0.2) as config:
        stranger, client = asyncio.run(talk(config))
    assert stranger["message"] == "no hello came"
    assert client["reason"] == "idle"


def test_a_conversation_has_an_end():
    engine = FakeEngine(pieces=10_000, piece_s=0.01)

    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            await client.ask(tone())
            return (await client.hear("ended"))[-1]

    with serving(engine, session_s=0.5) as config:
        assert asyncio.run(talk(config))["reason"] == "session_length"
        until(lambda: not engine.working)
