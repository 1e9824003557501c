"""Floods of every kind against a server that may open 256 files: others are answered all the while,
and afterwards memory and files are what they were. About seven minutes."""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from megatron_speech.chat.server.config import ServerConfig
from tests.chat.fake_engine import RATE_HZ, Client, free_port, until
from tests.chat.test_server_frames import BINARY, CONT, PING, PONG, TEXT, frame
from tests.chat.test_server_limits import GET, UPGRADE

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
FLOOD_S, ATTACKERS = 10.0, 4
FILES = 256
SERVER = """
import resource, sys
from pathlib import Path
from megatron_speech.chat.server.config import ServerConfig
from megatron_speech.chat.server.serve import serve
from tests.chat.fake_engine import FakeEngine

resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
tls = Path(sys.argv[3]) if len(sys.argv) > 3 else None
engine = FakeEngine()
serve(engine, ServerConfig(port=int(sys.argv[1]), max_sessions=6, hello_s=5.0,
      ssl_certfile=tls and tls / "c.pem", ssl_keyfile=tls and tls / "k.pem"))
"""
HELLO = frame(TEXT, json.dumps({"type": "hello", "sample_rate_hz": RATE_HZ}).encode())
PAGE = GET.replace(b"status", b"chat.js") + b"\r\n"
OPEN = GET.replace(b"/status", b"/chat") + UPGRADE + b"\r\n"


@dataclass
class Running:
    """A server in a process of its own."""

    config: ServerConfig
    process: psutil.Process
    log: Path
    tls: ssl.SSLContext | None

    def status(self) -> dict:
        url = f"{self.config.address}/status"
        with urllib.request.urlopen(url, timeout=20, context=self.tls) as answer:
            return json.load(answer)

    def files(self) -> int:
        return self.process.num_fds()

    def memory(self) -> int:
        return self.process.memory_info().rss


@contextlib.contextmanager
def running(folder: Path, tls: Path | None = None) -> Iterator[Running]:
    port = free_port()
    log = folder / "log"
    command = [sys.executable, "-c", SERVER, str(port), str(FILES), *([str(tls)] if tls else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    settings: dict = {"ssl_certfile": tls / "c.pem", "ssl_keyfile": tls / "k.pem"} if tls else {}
    context = ssl.create_default_context() if tls else None
    if context is not None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with log.open("w") as file:
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
    try:
        until(lambda: "Ctrl-C" in log.read_text(), 60)
        yield Running(ServerConfig(port=port, **settings), psutil.Process(child.pid), log, context)
    finally:
        child.terminate()
        child.wait(30)


def sends(again: bytes, first: bytes = b"", hello: bool = False) -> Callable:
    """Dials, sends it until the server hangs up, and dials again."""

    def flood(config: ServerConfig, stop: threading.Event) -> None:
        while not stop.is_set():
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", config.port), timeout=2) as line,
            ):
                line.sendall(first)
                if hello:
                    line.recv(1 << 16)
                    line.sendall(HELLO)
                while not stop.is_set():
                    line.sendall(again)

    return flood


def holds(first: bytes, pause_s: float, drip: bytes = b"", reads: bool = True) -> Callable:
    """As many sockets as can be had, each with the same beginning, some a byte at a time."""

    def flood(config: ServerConfig, stop: threading.Event) -> None:
        lines: list[socket.socket] = []
        while not stop.is_set():
            with contextlib.suppress(OSError):
                line = socket.socket()
                lines.append(line)
                if not reads:
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
                line.settimeout(2)
                line.connect(("127.0.0.1", config.port))
                line.sendall(first)
            if drip:
                for line in lines[-100:]:
                    with contextlib.suppress(OSError):
                        line.send(drip)
            if len(lines) > 1_000:
                lines.pop(0).close()
            stop.wait(pause_s)
        for line in lines:
            line.close()

    return flood


FLOODS = {
    "silence": holds(b"", 0.01),
    "a thousand connections a second": holds(b"", 0.004),
    "half requests": holds(GET, 0.01),
    "a byte a second": holds(GET + b"X: ", 0.05, b"a"),
    "sockets without hello": holds(OPEN, 0.02),
    "half a hello": holds(OPEN + HELLO[:20], 0.02),
    "answers that nobody reads": holds(PAGE * 50, 0.02, reads=False),
    "endless request lines": sends(b"a" * 100_000, b"GET /"),
    "requests in a row": sends((GET + b"\r\n") * 200),
    "chunks without end": sends(
        b"5\r\nhello\r\n" * 1_000, GET + b"Transfer-Encoding: chunked\r\n\r\n"
    ),
    "expected bodies": sends(
        b"a" * 10_000, GET + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n"
    ),
    "old requests": sends(b"GET /status HTTP/1.0\r\n\r\n"),
    "handshakes": sends(OPEN),
    "empty messages": sends(frame(BINARY) * 1_000, OPEN, True),
    "pings": sends(frame(PING) * 1_000, OPEN, True),
    "pongs": sends(frame(PONG) * 1_000, OPEN, True),
    "fragments": sends(frame(CONT, fin=False) * 500, OPEN + frame(TEXT, fin=False), False),
    "questions": sends(frame(TEXT, b'{"type": "ask", "text": "a"}') * 100, OPEN, True),
    "sound": sends(frame(BINARY, b"\0\1" * 50_000), OPEN, True),
    "hostile JSON": sends(frame(TEXT, b'{"type": ' + b"[" * 5_000), OPEN, True),
}  # fmt: skip


async def ask(config: ServerConfig) -> None:
    async with Client(config) as client, asyncio.timeout(20):
        await client.hear("ready")
        await client.say(type="ask", text="still there?")
        await client.hear("done")


def settled(server: Running, files: int) -> None:
    until(lambda: server.status()["served"] == 0 and server.files() <= files + 3, 60)


@pytest.mark.parametrize("name", FLOODS)
def test_others_are_answered_and_nothing_stays(name, tmp_path):
    with running(tmp_path) as server:
        asyncio.run(ask(server.config))
        stop = threading.Event()

        def round_of(seconds: float) -> list[float]:
            stop.clear()
            flood = [
                threading.Thread(target=FLOODS[name], args=(server.config, stop))
                for _ in range(ATTACKERS)
            ]
            for thread in flood:
                thread.start()
            took, end = [], time.monotonic() + seconds
            try:
                while time.monotonic() < end:
                    begin = time.monotonic()
                    server.status()
                    asyncio.run(ask(server.config))
                    took.append(time.monotonic() - begin)
                    assert server.files() < FILES
                    time.sleep(0.2)
            finally:
                stop.set()
                for thread in flood:
                    thread.join(30)
            return took

        files = server.files()
        round_of(FLOOD_S / 4)  # what Python keeps for later comes first
        settled(server, files)
        memory = server.memory()
        took = sorted(round_of(FLOOD_S))
        settled(server, files)
        grown = (server.memory() - memory) / 2**20
        print(f"{name}: {len(took)} rounds, {took[len(took) // 2]:.2f} s, at most {took[-1]:.2f} s,"
              f" {grown:.1f} MiB")  # fmt: skip
        assert took[-1] < 10.0
        assert grown < 24
        assert "Traceback" not in server.log.read_text()
        assert len(server.log.read_bytes()) < 10_000


def test_clients_that_never_finish_tls_are_cut_off(tmp_path):
    pem = ["-keyout", str(tmp_path / "k.pem"), "-out", str(tmp_path / "c.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=here", *pem],
        check=True,
        capture_output=True,
    )
    with running(tmp_path, tls=tmp_path) as server:
        server.status()
        files = server.files()
        beginnings = (b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n", bytes(4_096))
        with contextlib.ExitStack() as stack:
            for number in range(400):
                line = socket.create_connection(("127.0.0.1", server.config.port), timeout=20)
                stack.enter_context(line)
                with contextlib.suppress(OSError):
                    line.sendall(beginnings[number % len(beginnings)])
            assert server.status()["served"] == 0
            until(lambda: server.files() <= files + 3, 20)
        assert "Traceback" not in server.log.read_text()
