"""Chats whose tokens come from a vLLM server."""

import json
import threading
from functools import partial
from http.client import HTTPConnection
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_speech.chat.events import AudioChunk, Done
from megatron_speech.chat.served import VllmServer
from megatron_speech.chat.template import MODES
from megatron_speech.errors import ConfigError, ServiceError
from tests.chat.fake_engine import until
from tests.chat.parts import make_engine, question, write_model
from tests.chat.vllm_stand_in import url_of, vllm_stand_in


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("served"))


@pytest.fixture
def server(model):
    with vllm_stand_in(model) as running:
        yield running


@pytest.mark.parametrize("mode", MODES)
def test_a_conversation_is_the_one_that_the_model_here_would_have(model, server, mode):
    sessions = [
        make_engine(model, mode=mode, vllm_url=url).session() for url in (None, url_of(server))
    ]
    for session in sessions:
        for user in (question(3, 5, 7), "and you?"):
            events = list(session.respond(user))
            assert isinstance(events[-1], Done)
    here, there = ([turn.tokens for turn in session.history] for session in sessions)
    assert here == there


def test_a_request_lasts_as_long_as_what_it_allows(model, server):
    session = make_engine(model, vllm_url=url_of(server)).session()
    list(session.respond(question(3, 5, 7)))
    requests = server.requests[1:]  # behind the look at its vocabulary
    allowed = [tuple(request["allowed_token_ids"]) for request in requests]
    assert len(allowed) > 2
    assert len(allowed) == len(list(groupby(allowed)))
    assert [len(request["prompt"]) for request in requests] == sorted(
        len(request["prompt"]) for request in requests
    )


def test_an_interruption_ends_the_request(model, server):
    settings = {"decode_codes": 2, "max_new_tokens": 400, "vllm_url": url_of(server)}
    session = make_engine(model, **settings).session()
    server.pauses_at = 60
    server.goes_on.clear()
    for event in session.respond(question(3, 5, 7)):
        if isinstance(event, AudioChunk):
            session.interrupt()
    assert session.history[-1].interrupted
    server.goes_on.set()
    until(lambda: not server.answering, seconds=60)
    assert server.made < 100, "the server goes on for nobody"


@pytest.mark.parametrize("late", ["answers", "begins"])
def test_an_interruption_does_not_wait_for_the_server(model, server, late):
    session = make_engine(model, vllm_url=url_of(server)).session()
    getattr(server, late).clear()

    def interrupt():
        until(lambda: len(server.requests) == 2, seconds=60)  # behind the look at its vocabulary
        session.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    events = list(session.respond(question(3, 5, 7)))
    assert events[-1].reason == "interrupted"
    thread.join()
    getattr(server, late).set()
    assert list(session.respond(question(9)))[-1].reason != "interrupted"


def test_an_interruption_while_the_line_is_made_is_not_lost(model, server, monkeypatch):
    session = make_engine(model, vllm_url=url_of(server)).session()
    until(lambda: server.requests and not server.answering)  # what an engine asks first
    connect = HTTPConnection.connect

    def interrupted(connection):
        session.interrupt()
        connect(connection)

    monkeypatch.setattr(HTTPConnection, "connect", interrupted)
    made = server.made
    server.begins.clear()
    assert list(session.respond(question(3, 5, 7)))[-1].reason == "interrupted"
    assert server.made == made


def test_what_the_server_sees_of_a_conversation_is_all_there_is(model):
    with vllm_stand_in(model, context_tokens=100) as small:
        engine = make_engine(model, vllm_url=url_of(small) + "/v1")
        assert engine._parts.context_tokens == 100


def test_a_server_that_breaks_is_said(model, server):
    session = make_engine(model, vllm_url=url_of(server)).session()
    server.most_tokens = 3
    with pytest.raises(ServiceError, match=r"the answer of the vLLM server at .* broke off"):
        list(session.respond(question(3, 5, 7)))
    server.most_tokens = 1 << 30
    assert isinstance(list(session.respond(question(9)))[-1], Done)


def test_a_smaller_model_is_refused(model, server, tmp_path):
    described = json.loads((model / "config.json").read_text())
    fewer = LlamaConfig(**{**described, "vocab_size": described["vocab_size"] - 8})
    LlamaForCausalLM(fewer).save_pretrained(tmp_path)
    with (
        vllm_stand_in(tmp_path) as other,
        pytest.raises(ServiceError, match=r"says 400: .*out-of-vocab"),
    ):
        make_engine(model, vllm_url=url_of(other))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://here:21", "http://here:x", "http:///v1"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match="expected http://HOST:PORT"):
        VllmServer(url, 10)


def test_an_address_without_a_server_is_refused():
    with pytest.raises(ServiceError, match=r"no vLLM server answers .*vllm serve"):
        VllmServer("http://127.0.0.1:9", 10)


def test_another_kind_of_server_is_refused(tmp_path):
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "models").write_text("<html>")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(ServiceError, match="is no vLLM server"):
            VllmServer(f"http://127.0.0.1:{other.server_port}", 10)
        other.shutdown()
