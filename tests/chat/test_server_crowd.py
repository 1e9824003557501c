"""The server when many come: places, clients that vanish, stall or break their session."""

import asyncio
import json
import re
import urllib.request
from pathlib import Path

import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from megatron_speech.chat.server import serve
from tests.chat.fake_engine import Client, FakeEngine, serving, tone, types, until
from tests.chat.parts import make_engine, question, write_model

PAGE = Path(serve.__file__).parents[1] / "page"


def text_of_the_page(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def status(config) -> dict:
    with urllib.request.urlopen(f"{config.address}/status", timeout=10) as answer:
        return json.load(answer)


def empty(config) -> bool:
    found = status(config)
    return found["served"] == found["waiting"] == 0


def test_two_of_twenty_are_served_and_the_others_move_up():
    engine = FakeEngine(pieces=5, piece_s=0.01)
    places: dict[int, list[int]] = {}
    most_at_work = 0

    async def one(config, number, arrived):
        nonlocal most_at_work
        async with Client(config) as client:
            first = await client.next()
            arrived.set()
            heard = [first] if first["type"] == "ready" else [first, *await client.hear("ready")]
            places[number] = [m["place"] for m in heard if m["type"] == "waiting"]
            await client.ask(tone())
            await client.hear("timing")
            most_at_work = max(most_at_work, engine.working)
            return types(await client.hear("done"))[-1]

    async def all_of_them(config):
        tasks = []
        for number in range(20):
            arrived = asyncio.Event()
            tasks.append(asyncio.create_task(one(config, number, arrived)))
            await arrived.wait()
            if number == 19:
                shown = await asyncio.to_thread(status, config)
        return shown, await asyncio.gather(*tasks)

    with serving(engine, max_sessions=2) as config:
        _, ends = asyncio.run(all_of_them(config))
        until(lambda: empty(config))
    assert ends == ["done"] * 20
    assert most_at_work <= 2
    assert all(seen == sorted(seen, reverse=True) for seen in places.values())
    # two places may become free at once: who was second is then served without having been first
    assert all(seen[-1] <= 2 for seen in places.values() if seen)
    assert max(len(seen) for seen in places.values()) >= 3


def test_who_comes_to_a_full_house_is_turned_away():
    async def talk(config):
        async with Client(config) as served, Client(config) as waits:
            await served.hear("ready")
            assert (await waits.hear("waiting"))[-1] == {
                "type": "waiting",
                "place": 1,
                "waiting": 1,
            }
            async with Client(config) as third:
                ended = (await third.hear("ended"))[-1]
            await served.socket.close()
            await waits.hear("ready")
            return ended

    with serving(FakeEngine(), max_sessions=1, max_waiting=1) as config:
        assert asyncio.run(talk(config))["reason"] == "full"


def test_who_leaves_the_queue_or_talks_in_it_frees_the_place():
    async def talk(config):
        async with Client(config) as served:
            await served.hear("ready")
            async with Client(config) as leaves, Client(config) as chatters:
                await leaves.hear("waiting")
                assert (await chatters.hear("waiting"))[-1]["place"] == 2
                async with Client(config) as last:
                    assert (await last.hear("waiting"))[-1]["place"] == 3
                    leaves.socket.transport.abort()
                    assert (await last.hear("waiting"))[-1]["place"] == 2
                    await chatters.say(type="ask")
                    assert (await chatters.hear("ended"))[-1]["reason"] == "protocol"
                    assert (await last.hear("waiting"))[-1]["place"] == 1
                    await served.socket.close()
                    await last.hear("ready")

    with serving(FakeEngine(), max_sessions=1) as config:
        asyncio.run(talk(config))


def test_a_failing_session_takes_nobody_with_it():
    engine = FakeEngine(pieces=50, piece_s=0.01)

    async def talk(config):
        async with Client(config) as good, Client(config) as bad:
            await good.hear("ready")
            await bad.hear("ready")
            await good.ask(tone())
            await good.hear("timing")
            await bad.ask(tone(peak=0.99))
            ended = (await bad.hear("ended"))[-1]
            with pytest.raises(ConnectionClosed):
                await bad.next()
            done = (await good.hear("done"))[-1]
            async with Client(config) as again:
                await again.hear("ready")
            return ended, done

    with serving(engine, max_sessions=2) as config:
        ended, done = asyncio.run(talk(config))
    assert ended["reason"] == "failure"
    assert "broke" not in ended["message"]  # what went wrong is the operator's to know
    assert done["reason"] == "stop"


def test_a_client_that_vanishes_stops_its_answer_and_leaves_its_seat():
    engine = FakeEngine(pieces=100_000, piece_s=0.002)

    async def talk(config):
        for _ in range(6):
            async with Client(config) as client:
                await client.hear("ready")
                await client.ask(tone())
                await client.hear("timing")
                client.socket.transport.abort()

    with serving(engine, max_sessions=1) as config:
        asyncio.run(talk(config))
        until(lambda: empty(config) and not engine.working)


def test_a_client_that_reads_nothing_holds_its_answer_and_is_given_up():
    engine = FakeEngine(pieces=1_000_000)

    async def talk(config):
        async with Client(config) as good, Client(config) as stuck:
            await good.hear("ready")
            await stuck.hear("ready")
            stuck.socket.transport.pause_reading()
            await stuck.ask(tone())
            await asyncio.to_thread(until, lambda: engine.pieces_made > 100)
            engine.pieces = 3
            await good.ask(tone())
            await asyncio.wait_for(good.hear("done"), 20)
            await asyncio.to_thread(until, lambda: not engine.working)
            stuck.socket.transport.abort()

    with serving(engine, max_sessions=2, stall_s=0.5) as config:
        before = psutil.Process().memory_info().rss
        asyncio.run(talk(config))
        until(lambda: empty(config))
        assert psutil.Process().memory_info().rss - before < 64 << 20
    assert engine.pieces_made < 20_000  # the answer waited for its client


def test_memory_and_threads_return_to_where_they_were():
    engine = FakeEngine(pieces=20)

    async def crowd(config):
        async def one():
            async with Client(config) as client:
                await client.hear("ready")
                for _ in range(2):
                    await client.ask(tone(2.0))
                    await client.hear("done")

        await asyncio.gather(*(one() for _ in range(20)))

    with serving(engine, max_sessions=2) as config:
        asyncio.run(crowd(config))  # buffers and threads that are kept come first
        until(lambda: empty(config))
        process = psutil.Process()
        memory, threads = process.memory_info().rss, process.num_threads()
        for _ in range(2):
            engine.questions.clear()
            asyncio.run(crowd(config))
            until(lambda: empty(config))
        # pools may still fill; a thread left by each client would be forty
        assert process.num_threads() <= threads + 5
        assert process.memory_info().rss - memory < 16 << 20


def test_the_page_is_served_with_its_parts_and_nothing_from_elsewhere():
    with serving(FakeEngine()) as config:
        with urllib.request.urlopen(config.address) as answer:
            page = answer.read().decode()
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        for name in ("chat.css", "chat.js"):
            assert name in page
            with urllib.request.urlopen(f"{config.address}/{name}") as answer:
                assert answer.status == 200
    assert "http://" not in page
    assert "https://" not in page


def test_the_page_can_stand_below_a_path():
    """Proxies of notebooks serve it at /user/me/proxy/8765/: every address is relative to it."""
    for file in PAGE.iterdir():
        text = text_of_the_page(file.name)
        assert not re.findall(r"""(?:["'`(]|host\}|origin\})/(?=\w)""", text), file.name
        assert not re.findall(r"location\.(?:host|origin)\b", text), file.name
    assert 'new URL("chat", location.href)' in text_of_the_page("link.js")


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_the_words_of_the_page_stand_out_from_what_is_behind_them(scheme):
    """Contrast of at least 4.5 to 1 (WCAG 2, AA)."""
    style = text_of_the_page("chat.css")
    colours = dict(re.findall(r"--(\S+): (#\w{6});", style.split(":root {")[1 + scheme]))

    def luminance(name):
        parts = [int(colours[name][n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(a * b for a, b in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    for words, behind in (
        *((words, "paper") for words in ("ink", "soft", "pale", "bad")),
        *(("soft", behind) for behind in ("card", "rule", "text-soft")),
        ("ink", "text-soft"),
        ("speech", "card"),
        ("on", "speech"),
    ):
        one, other = sorted((luminance(words), luminance(behind)))
        assert (other + 0.05) / (one + 0.05) >= 4.5, (words, behind)


def test_the_engine_itself_is_heard(tmp_path):
    """Two at once, with a small random model: each gets the answer it would get alone."""
    engine = make_engine(write_model(tmp_path), max_new_tokens=40)
    alone = engine.session()
    list(alone.respond(question(3, 5, 7)))

    async def one(config):
        async with Client(config) as client:
            await client.hear("ready")
            await client.ask(question(3, 5, 7))
            return await client.hear("done")

    async def both(config):
        return await asyncio.gather(one(config), one(config))

    with serving(engine) as config:
        answers = asyncio.run(both(config))
    for answer in answers:
        told = [m for m in answer if isinstance(m, dict)]
        assert "".join(m["text"] for m in told if m["type"] == "text") == alone.history[1].text
        assert answer[-1]["timing"]["speech_tokens"] == len(alone.history[1].codes)
        assert sum(len(m) for m in answer if not isinstance(m, dict))
