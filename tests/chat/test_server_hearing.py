"""What was understood so far of a question that is still being spoken."""

import asyncio
import threading

import numpy as np

from tests.chat.fake_engine import Client, FakeEngine, serving, tone, types, until


async def speak(client, seconds: float, sound=tone) -> None:
    await client.socket.send((sound(seconds) * 32_767).astype("<i2").tobytes())


async def heard(client) -> str:
    return (await client.hear("hearing"))[-1]["text"]


def read_slowly(engine: FakeEngine) -> tuple[list[float], threading.Event]:
    """Seconds of each sound that it begins to read; it ends when the event is set."""
    overhear, lengths, go_on = engine.overhear, [], threading.Event()

    def slowly(audio, rate):
        lengths.append(len(audio) / rate)
        go_on.wait(20)
        return overhear(audio, rate)

    engine.overhear = slowly
    return lengths, go_on


def quiet(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * 16_000))


def test_a_question_is_read_in_steps_that_grow():
    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            texts = []
            for seconds in (0.5, 0.5, 3.0):
                await speak(client, seconds)
                texts.append(await heard(client))
            await speak(client, 0.5)  # an eighth more: not yet
            await speak(client, 0.5)
            texts.append(await heard(client))
            await client.say(type="ask")
            first = await client.hear("done")
            await speak(client, 0.5)
            second = await client.hear("hearing")
            return texts, types(first), second[-1]

    with serving(FakeEngine(), hearing_s=0.5) as config:
        texts, first, second = asyncio.run(talk(config))
    assert texts == ["0.5 s", "1 s", "4 s", "5 s"]
    assert "hearing" not in first
    assert second == {"type": "hearing", "turn": 2, "text": "0.5 s"}


def test_what_was_discarded_or_asked_meanwhile_is_not_shown():
    engine = FakeEngine()
    lengths, go_on = read_slowly(engine)

    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            await speak(client, 0.5)
            await asyncio.to_thread(until, lambda: lengths)
            await client.say(type="discard")
            await speak(client, 0.7)
            await client.say(type="ask")
            answer = await client.hear("done")
            await speak(client, 0.6)
            go_on.set()
            return answer + await client.hear("hearing")

    with serving(engine, hearing_s=0.5) as config:
        messages = asyncio.run(talk(config))
    assert types(messages).count("hearing") == 1
    assert messages[-1] == {"type": "hearing", "turn": 2, "text": "0.6 s"}


def test_who_reads_slower_than_one_speaks_reads_what_there_is_once():
    engine = FakeEngine()
    lengths, go_on = read_slowly(engine)

    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            await speak(client, 0.5)
            await asyncio.to_thread(until, lambda: lengths)
            for _ in range(8):
                await speak(client, 0.5)
            await client.say(type="interrupt", heard_s=0.0)  # heard after the sound
            await asyncio.to_thread(until, lambda: engine.interruptions)
            go_on.set()
            return [await heard(client), await heard(client)]

    with serving(engine, hearing_s=0.5) as config:
        assert asyncio.run(talk(config)) == ["0.5 s", "4.5 s"]
    assert lengths == [0.5, 4.5]


def test_silence_is_no_question_yet():
    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            await speak(client, 0.5, quiet)
            await speak(client, 0.5)
            return await client.hear("hearing")

    with serving(FakeEngine(), hearing_s=0.5) as config:
        assert asyncio.run(talk(config))[-1]["text"] == "1 s"


def test_it_can_be_turned_off():
    engine = FakeEngine()
    engine.overhear = lambda audio, rate: 1 / 0

    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            await speak(client, 5.0)
            await client.say(type="ask")
            return types(await client.hear("done"))

    with serving(engine, hearing_s=0) as config:
        assert "hearing" not in asyncio.run(talk(config))
