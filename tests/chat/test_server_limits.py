"""Clients that never come to a conversation: they are cut off, and keep nobody out."""

import asyncio
import contextlib
import json
import resource
import socket
import threading
import time
import urllib.request

import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from megatron_speech.chat.server.config import ServerConfig
from megatron_speech.chat.server.connections import Connections
from megatron_speech.chat.server.protocol import EndedError
from megatron_speech.chat.server.requests import MOST_REQUEST_BYTES
from megatron_speech.errors import ConfigError
from tests.chat.fake_engine import Client, FakeEngine, serving, tone
from tests.chat.test_server_frames import asks, endless

GET = b"GET /status HTTP/1.1\r\nHost: here\r\n"
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


def dial(config) -> socket.socket:
    return socket.create_connection(("127.0.0.1", config.port), timeout=20)


def status(config) -> dict:
    with urllib.request.urlopen(f"{config.address}/status", timeout=20) as answer:
        return json.load(answer)


def heard(line: socket.socket) -> bytes:
    """All that comes until the server hangs up."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while more := line.recv(1 << 16):
            found += more
    return found


def seconds_open(line: socket.socket, drip: bytes = b"") -> float:
    """Until the server hangs up, while a byte of `drip` goes out ten times a second."""
    begin = time.monotonic()
    line.settimeout(0.1)
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - begin < 30:
            try:
                if not line.recv(1 << 16):
                    break
            except TimeoutError:
                line.sendall(drip[:1])
                drip = drip[1:] + drip[:1]
    return time.monotonic() - begin


ENDLESS = {
    "request line": (b"GET /", b"a" * 50_000),
    "header": (GET + b"X: ", b"a" * 50_000),
    "headers": (GET, b"a: b\r\n" * 8_000),
    "empty lines": (b"", b"\r\n" * 20_000),
    "chunks": (b"POST /status HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n",
               b"5\r\nhello\r\n" * 5_000),
    "chunks of a GET": (GET + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n" * 5_000),
    "an expected body": (GET + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n",
                         b"a" * 50_000),
    "requests in a row": (b"", (GET + b"\r\n") * 1_000),
    "upgrade": (GET + UPGRADE + b"Cookie: ", b"a" * 50_000),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
def test_a_request_without_end_is_not_read_to_it(name):
    first, again = ENDLESS[name]
    with serving(FakeEngine()) as config, dial(config) as line:
        before = psutil.Process().memory_info().rss
        line.sendall(first)
        took: list[int] = []
        flood = threading.Thread(target=lambda: took.append(endless(line, again)))
        flood.start()
        assert status(config)["served"] == 0
        assert asyncio.run(asks(config))[-1] == "done"
        flood.join(30)
        assert took[0] < 16 << 20  # what the kernel holds for both ends, at most
        assert psutil.Process().memory_info().rss - before < 32 << 20


def test_a_large_request_is_told_so_and_a_usual_one_is_answered_once():
    with serving(FakeEngine()) as config:
        with dial(config) as line:
            line.sendall(GET + b"X: " + b"a" * MOST_REQUEST_BYTES + b"\r\n\r\n")
            assert heard(line).startswith(b"HTTP/1.1 431 ")
        with dial(config) as line:
            line.sendall((GET + b"Cookie: " + b"a" * 7_000 + b"\r\n\r\n") * 2)
            answers = heard(line)
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert answers.count(b"HTTP/1.1 ") == 1


SPOILED = {
    "another one behind an old one": (b"GET /status HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"),
    "garbage behind it": (GET + b"\r\n", b"\x00\xff\r\n\r\n"),
    "garbage with it": (GET + b"\r\n\x00\xff\r\n\r\n", b"\x00"),
    "no chunk": (GET + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n", b"ZZ\r\n"),
    "no length": (GET + b"Content-Length: -1\r\n\r\n", b"a"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_spoils_a_request_is_no_line_in_the_log(name, capsys):
    first, again = SPOILED[name]
    with serving(FakeEngine()) as config:
        for _ in range(20):
            with dial(config) as line, contextlib.suppress(ConnectionError):
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line.sendall(first)
                for _ in range(5):
                    line.sendall(again)
                heard(line)
        assert status(config)["served"] == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize("header", [b"Cookie: " + b"a" * 9_000 + b"\r\n", b"a: b\r\n" * 200])
def test_an_upgrade_that_the_websocket_cannot_read_is_answered_and_ends(header):
    with serving(FakeEngine(), hello_s=60.0) as config, dial(config) as line:
        line.sendall(GET.replace(b"/status", b"/chat") + UPGRADE + header + b"\r\n")
        assert heard(line).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("path", ["/", "/status", "/chat.js"])
def test_a_websocket_of_another_path_is_refused_without_a_word_in_the_log(path, capsys):
    with serving(FakeEngine()) as config, dial(config) as line:
        line.sendall(GET.replace(b"/status", path.encode()) + UPGRADE + b"\r\n")
        assert heard(line).startswith(b"HTTP/1.1 403 ")
    assert not capsys.readouterr().err


def test_who_asks_for_nothing_or_too_slowly_is_cut_off():
    half = GET + b"X: " + b"a" * 500
    with serving(FakeEngine(), hello_s=1.5) as config:
        with contextlib.ExitStack() as stack:
            lines = [stack.enter_context(dial(config)) for _ in range(6)]
            for line, first in zip(lines[1:], (GET[:9], GET, GET + b"\r\n"), strict=False):
                line.sendall(first)
            drips = [b"", b"", b"", b"", half, b"\r\n"]
            took = [0.0] * len(lines)

            def wait(number):
                took[number] = seconds_open(lines[number], drips[number])

            threads = [threading.Thread(target=wait, args=(n,)) for n in range(len(lines))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert max(took) < 10
        assert status(config)["served"] == 0


def test_silent_sockets_keep_nobody_out_and_leave_conversations_alone():
    """More than there may be, and none of them has said hello."""

    async def talk(config):
        url = f"ws://127.0.0.1:{config.port}/chat"
        async with Client(config) as early, contextlib.AsyncExitStack() as stack:
            await early.hear("ready")
            lines = [stack.enter_context(dial(config)) for _ in range(50)]
            for line in lines[::2]:
                line.sendall(b"GET / HT")
            silent = [await stack.enter_async_context(connect(url)) for _ in range(60)]
            async with Client(config) as late:
                await late.hear("ready")
                await late.ask(tone())
                await late.hear("done")
            assert (await asyncio.to_thread(status, config))["served"] >= 1
            with pytest.raises(ConnectionClosed):
                await silent[0].recv()  # the first of the silent made room
            await early.ask(tone())
            return types_of(await early.hear("done"))

    def types_of(messages):
        return [m["type"] for m in messages if isinstance(m, dict)]

    with serving(FakeEngine(), max_sessions=2, max_per_address=40) as config:
        before = psutil.Process().num_fds()
        assert asyncio.run(talk(config))[-1] == "done"
        assert psutil.Process().num_fds() < before + 8


def test_addresses_are_counted_as_subscribers_have_them():
    async def count():
        gone: list[str] = []
        everyone = Connections(ServerConfig(max_per_address=2))

        def admit(name, host):
            return everyone.admit(host, lambda: gone.append(name))

        first = admit("a1", "192.0.2.1")
        with first.conversation():
            admit("a2", "192.0.2.1")
            admit("a3", "::ffff:192.0.2.1")
            for number in range(3):
                admit(f"b{number}", f"2001:db8:0:1::{number}")
            admit("c", "2001:db8:0:2::1")
            admit("d", "fe80::1%eth0")
            assert gone == ["b0"]  # two silent ones of "a" beside its conversation
            third = admit("a4", "192.0.2.1")
            assert gone == ["b0", "a2"]
            third.answering = True
            admit("a5", "192.0.2.1")
            assert gone == ["b0", "a2", "a3"]
            admit("a6", "192.0.2.1")
            assert gone[3:] == ["a5"]  # who has asked is not silent
            with third.conversation():
                late = admit("a7", "192.0.2.1")
                with pytest.raises(EndedError, match="from your address already"):
                    late.conversation().__enter__()
        assert gone[4:] == []
        first.closed()
        with late.conversation():
            assert late in everyone.all
            assert first not in everyone.all

    asyncio.run(count())


def test_all_silent_ones_together_have_an_end():
    async def count():
        gone: list[int] = []
        everyone = Connections(ServerConfig(max_per_address=0))
        for number in range(300):
            everyone.admit(f"10.0.{number // 256}.{number % 256}", lambda n=number: gone.append(n))
        everyone.make_room()
        return gone, len(everyone.all)

    gone, left = asyncio.run(count())
    assert gone == list(range(45))
    assert left == 255


def test_a_process_that_may_open_too_few_files_is_refused():
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, allowed[1]))
    try:
        with pytest.raises(ConfigError, match="ulimit -n"):
            Connections(ServerConfig(max_waiting=150))
        Connections(ServerConfig())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
