"""Clients that break the WebSocket's frames: others are answered, and memory is bounded."""

import asyncio
import contextlib
import json
import socket
import struct
import threading
import zlib

import psutil
import pytest
from websockets.asyncio.client import connect

from tests.chat.fake_engine import RATE_HZ, Client, FakeEngine, serving, tone, types, until

TEXT, BINARY, CONT, PING, PONG = 1, 2, 0, 9, 10


def frame(opcode: int, payload: bytes = b"", fin: bool = True, length: int | None = None) -> bytes:
    """A client's frame, masked with zeros; `length` is what its header claims."""
    length = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | opcode])
    if length < 126:
        head += bytes([0x80 | length])
    else:
        head += bytes([0x80 | 127]) + struct.pack("!Q", length)
    return head + bytes(4) + payload


def enter(config) -> socket.socket:
    """A connection that has said hello."""
    line = socket.create_connection(("127.0.0.1", config.port), timeout=20)
    line.sendall(
        b"GET /chat HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    heard = b""
    while b"\r\n\r\n" not in heard:
        heard += line.recv(1 << 16)
    line.sendall(frame(TEXT, json.dumps({"type": "hello", "sample_rate_hz": RATE_HZ}).encode()))
    while b"ready" not in heard:
        heard += line.recv(1 << 16)
    return line


def endless(line, data: bytes) -> int:
    """Send it until the server hangs up; how many bytes it took, at most 64 MB."""
    sent = 0
    with contextlib.suppress(ConnectionError, TimeoutError):
        while sent < 64 << 20:
            line.sendall(data)
            sent += len(data)
    return sent


FLOODS = {
    "fragments without end": (frame(TEXT, fin=False), frame(CONT, b"a" * 1_000, fin=False) * 50),
    "small fragments": (frame(TEXT, fin=False), frame(CONT, b"a", fin=False) * 5_000),
    "empty fragments": (frame(TEXT, fin=False), frame(CONT, fin=False) * 5_000),
    "messages of nothing": (b"", frame(BINARY) * 5_000),
    "messages of a sample": (b"", frame(BINARY, b"\1\0") * 5_000),
    "pongs": (b"", frame(PONG) * 5_000),
    "questions": (b"", frame(TEXT, b'{"type": "ask", "text": "a"}') * 2_000),
    "pings that are not read": (b"", frame(PING, b"a" * 100) * 500),
}
ENDS = {
    "no UTF-8": frame(TEXT, b"\xff\xfe\xfd"),
    "no UTF-8 in parts": frame(TEXT, b"\xe2\x82", fin=False) + frame(CONT, b"\xff"),
    "an unknown kind": frame(3),
    "a part of nothing": frame(CONT, b"a"),
    "a compressed one": bytes([0xC0 | TEXT, 0x80 | 4]) + bytes(4) + zlib.compress(bytes(9))[:4],
    "an endless one": frame(TEXT, length=1 << 62),
}


async def asks(config) -> list[str]:
    """What another client hears."""
    async with Client(config) as good, asyncio.timeout(20):
        await good.hear("ready")
        await good.ask(tone())
        return types(await good.hear("done"))


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_cut_off_and_holds_nobody_up(name):
    first, again = FLOODS[name]
    with serving(FakeEngine(), max_sessions=2, stall_s=60.0) as config, enter(config) as line:
        before = psutil.Process().memory_info().rss
        line.sendall(first)
        took: list[int] = []
        flood = threading.Thread(target=lambda: took.append(endless(line, again)))
        flood.start()
        assert asyncio.run(asks(config))[-1] == "done"
        flood.join(30)
        assert took[0] < 16 << 20
        assert psutil.Process().memory_info().rss - before < 32 << 20


@pytest.mark.parametrize("name", ENDS)
def test_broken_frames_end_their_connection_alone(name):
    with serving(FakeEngine(), max_sessions=1) as config, enter(config) as line:
        line.sendall(ENDS[name])
        with contextlib.suppress(ConnectionError):
            while line.recv(1 << 16):
                pass
        assert asyncio.run(asks(config))[-1] == "done"  # its seat is free


def test_compression_is_not_agreed_on():
    async def extensions(config):
        async with connect(f"ws://127.0.0.1:{config.port}/chat", compression="deflate") as socket:
            return socket.protocol.extensions

    with serving(FakeEngine()) as config:
        assert asyncio.run(extensions(config)) == []


def test_speech_in_short_blocks_and_after_a_stop_of_the_network_is_no_flood():
    """Blocks of 128 samples, as browsers make them, five seconds of them at once."""
    with serving(FakeEngine(), max_sessions=1, stall_s=60.0) as config, enter(config) as line:
        line.sendall(frame(BINARY, b"\0\1" * 128) * 1_875)
        line.sendall(frame(TEXT, b'{"type": "ask"}'))
        answer = b""
        while b'"done"' not in answer:
            answer += line.recv(1 << 16)


@pytest.mark.parametrize("name", ["too large", "no UTF-8", "a flood"])
def test_an_answer_that_is_cut_off_leaves_nothing_in_the_log(name, caplog, capsys):
    last = {
        "too large": frame(BINARY, length=1 << 20),
        "no UTF-8": frame(TEXT, b"\xff"),
        "a flood": frame(PONG) * 5_000,
    }[name]
    engine = FakeEngine(pieces=100_000, piece_s=0.0005)
    with serving(engine, max_sessions=1) as config, enter(config) as line:
        line.sendall(frame(TEXT, b'{"type": "ask", "text": "a"}'))
        until(lambda: engine.pieces_made > 5)
        line.sendall(last)
        with contextlib.suppress(ConnectionError):
            while line.recv(1 << 16):
                pass
        until(lambda: not engine.working)
    assert not caplog.records
    assert not capsys.readouterr().err


def test_half_a_frame_is_not_waited_for():
    with serving(FakeEngine(), max_sessions=1, stall_s=1.0) as config, enter(config) as line:
        line.sendall(frame(TEXT, b"a" * 10, length=100_000))
        assert asyncio.run(asks(config))[-1] == "done"
