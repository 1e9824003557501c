"""The judge against a local server that speaks chat completions."""

import json
import socketserver
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from megatron_speech.errors import ConfigError
from megatron_speech.evaluation import judge as judge_module
from megatron_speech.evaluation.judge import (
    Judge,
    JudgeConfig,
    Question,
    Verdict,
    read_grade,
    read_judgment,
)


@contextmanager
def server(reply):
    """`reply(body, headers)` is the message's content, or a status code that is no success."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, body, dict(self.headers)))
            content = reply(body["messages"][0]["content"])
            self.send_response(content if isinstance(content, int) else 200)
            self.end_headers()
            if not isinstance(content, int):
                message = {"choices": [{"message": {"role": "assistant", "content": content}}]}
                self.wfile.write(json.dumps(message).encode())

        def log_message(self, *arguments):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/v1", seen
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(judge_module, "_WAIT_S", 0.0)
    monkeypatch.setenv("OUR_KEY", "secret")


def config(url, **changes):
    return JudgeConfig(
        **{"judge_url": url, "judge_model": "m", "judge_key_variable": "OUR_KEY", **changes}
    )


def answer_both(prompt):
    if "JSON" not in prompt:
        return "Helpful and short.\nGrade: [[8]]"
    right = "rabbit" in prompt.partition("\n\nAnswer:")[2]
    return json.dumps({"analysis": "-", "judgment": "correct" if right else "wrong"})


def test_quality_and_correctness():
    asked = [
        Question("What pet?", "A rabbit.", ("rabbit",)),
        Question("What pet?", "A cat.", ("rabbit",)),
        Question("What was the end?", "The end."),
    ]
    with server(answer_both) as (url, seen):
        verdicts = Judge(config(url)).judge(asked)
    assert verdicts == [Verdict(8, True), Verdict(8, False), Verdict(8)]
    assert len(seen) == 5
    path, body, headers = seen[0]
    assert path == "/v1/chat/completions"
    assert body["model"] == "m"
    assert headers["Authorization"] == "Bearer secret"


def test_a_busy_server_is_asked_again():
    replies = iter([503, "no grade at all", "[[3]]"])
    with server(lambda prompt: next(replies)) as (url, seen):
        (verdict,) = Judge(config(url)).judge([Question("Why?", "So.")])
    assert verdict == Verdict(3)
    assert len(seen) == 3


def test_what_cannot_be_judged_is_said():
    with server(lambda prompt: "no grade") as (url, _):
        (verdict,) = Judge(config(url, judge_attempts=2)).judge([Question("Why?", "So.")])
    assert verdict.quality is None
    assert "cannot be read: 'no grade'" in (verdict.error or "")
    (verdict,) = Judge(config(url)).judge([Question("Why?", "So.")])  # nobody listens there now
    assert "no reply" in (verdict.error or "")


@pytest.mark.parametrize(
    "raw",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"choices": [',  # breaks off
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",  # more headers than are read
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b"",
    ],
)
def test_a_broken_reply_is_an_error_of_its_question(raw):
    class Broken(socketserver.StreamRequestHandler):
        def handle(self):
            while self.rfile.readline().strip():
                pass
            self.wfile.write(raw)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Broken) as running:
        threading.Thread(target=running.serve_forever).start()
        url = f"http://127.0.0.1:{running.server_address[1]}/v1"
        try:
            verdicts = Judge(config(url, judge_attempts=2)).judge([Question("Why?", "So.")] * 2)
        finally:
            running.shutdown()
    assert [verdict.quality for verdict in verdicts] == [None, None]
    assert all("no reply" in (verdict.error or "") for verdict in verdicts)


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("[[7]]", 7),
        ("First [[2]], rather [[ 9 ]].", 9),
        ("[[0]]", None),
        ("[[11]]", None),
        ("7", None),
    ],
)
def test_grades(reply, grade):
    assert read_grade(reply) == grade


@pytest.mark.parametrize(
    ("reply", "judgment"),
    [
        ('{"analysis": "x", "judgment": "correct"}', True),
        ('Sure: ```json\n{"judgment": "Wrong"}\n```', False),
        ('{"judgment": "perhaps"}', None),
        ("{broken", None),
        ("correct", None),
        ('{"analysis": "x"}', None),
    ],
)
def test_judgments(reply, judgment):
    assert read_judgment(reply) is judgment


def test_no_server_no_judge():
    with pytest.raises(ConfigError, match="--judge-url"):
        Judge(JudgeConfig())
    with pytest.raises(ConfigError, match="http://HOST/v1"):
        JudgeConfig(judge_url="ftp://x")
