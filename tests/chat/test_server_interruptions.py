"""Answers that are interrupted, and questions that come before the last one is answered."""

import asyncio

from tests.chat.fake_engine import Client, FakeEngine, serving, tone, types, until


async def ask_a_slow_one(client, engine):
    """Ask "a", which the engine does not finish tokenising until it is told to."""
    engine.tokenised.clear()
    await client.hear("ready")
    await client.say(type="ask", text="a")
    await asyncio.to_thread(until, lambda: engine.working)


def test_an_interruption_stops_the_engine_and_the_next_question_is_answered():
    engine = FakeEngine(pieces=1_000, piece_s=0.01)

    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            await client.ask(tone())
            await client.hear("timing")
            await client.say(type="interrupt", heard_s=0.25)
            done = (await client.hear("done"))[-1]
            engine.pieces = 2
            await client.ask(tone())
            return done, await client.hear("done")

    with serving(engine) as config:
        done, second = asyncio.run(talk(config))
    assert done["reason"] == "interrupted"
    assert engine.interruptions[0] == 0.25
    assert engine.pieces_made < 500
    assert second[-1]["reason"] == "stop"
    assert {m["turn"] for m in second if isinstance(m, dict)} >= {2}


def test_an_interruption_before_the_engine_begins_is_not_lost():
    engine = FakeEngine(pieces=1_000, piece_s=0.01)

    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            for _ in range(5):
                await client.ask(tone())
                await client.say(type="interrupt")
                assert (await client.hear("done"))[-1]["reason"] == "interrupted"

    with serving(engine) as config:
        asyncio.run(talk(config))
    assert engine.pieces_made < 1_000


def test_a_new_question_interrupts_the_answer():
    engine = FakeEngine(pieces=1_000, piece_s=0.01)

    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            await client.ask(tone())
            await client.hear("timing")
            await client.say(type="ask", text="something else")
            await client.hear("done")
            await client.hear("timing")
            await client.say(type="interrupt")
            return (await client.hear("done"))[-1]

    with serving(engine) as config:
        assert asyncio.run(talk(config))["turn"] == 2


def test_the_newest_of_many_questions_is_answered():
    engine = FakeEngine()

    async def talk(config):
        async with Client(config) as client:
            await ask_a_slow_one(client, engine)
            ends = {}
            for text in "bcd":
                await client.say(type="ask", text=text)
            while len(ends) < 2:  # "b" and "c" end when the one after them is asked
                end = (await client.hear("done", "refused"))[-1]
                ends[end["turn"]] = end.get("reason", "refused")
            engine.tokenised.set()
            while len(ends) < 4:
                end = (await client.hear("done", "refused"))[-1]
                ends[end["turn"]] = end.get("reason", "refused")
            return ends

    with serving(engine) as config:
        ends = asyncio.run(talk(config))
    assert ends == {1: "interrupted", 2: "interrupted", 3: "interrupted", 4: "stop"}
    assert [question for question, _ in engine.questions] == ["a", "d"]


def test_an_interruption_of_a_waiting_question_keeps_what_was_heard_of_the_one_before():
    engine = FakeEngine()

    async def talk(config):
        async with Client(config) as client:
            await ask_a_slow_one(client, engine)
            await client.say(type="interrupt", heard_s=0.25)
            await client.say(type="ask", text="b")
            await client.say(type="interrupt", heard_s=0.0)
            await client.say(type="ask", text="c")
            assert (await client.hear("done"))[-1]["turn"] == 2  # all messages were heard
            engine.tokenised.set()
            while (await client.hear("done"))[-1]["turn"] < 3:
                pass
            return list(engine.interruptions)  # leaving is one more

    with serving(engine) as config:
        interruptions = asyncio.run(talk(config))
    assert set(interruptions) == {0.25}


def test_a_question_does_not_wait_for_the_transcript_of_the_last_one():
    engine = FakeEngine(pieces=1_000, piece_s=0.01, transcribe_s=1.5)

    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            await client.ask(tone(2.0))
            await client.hear("timing")
            engine.pieces = 2
            await client.say(type="ask", text="something else")
            heard = await client.hear("done")  # of the first
            heard += await client.hear("done")
            return heard, await client.hear("transcript")

    with serving(engine) as config:
        heard, later = asyncio.run(talk(config))
    assert heard[-1]["turn"] == 2
    assert "transcript" not in types(heard)
    assert later[-1] == {"type": "transcript", "turn": 1, "text": "25 codes"}


def test_what_was_cancelled_before_its_sound_is_not_transcribed():
    engine = FakeEngine()

    async def talk(config):
        async with Client(config) as client:
            await client.hear("ready")
            engine.tokenised.clear()
            await client.ask(tone())
            await asyncio.to_thread(until, lambda: engine.working)
            await client.say(type="interrupt")
            await asyncio.to_thread(until, lambda: engine.interruptions)
            engine.tokenised.set()
            await client.hear("done")
            await client.say(type="ask", text="and now?")
            await client.hear("done")

    with serving(engine) as config:
        asyncio.run(talk(config))
    assert not engine.transcribed
