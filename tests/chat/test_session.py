"""Sessions whose tokens are given: the grammar of each mode, and what an interruption leaves."""

from dataclasses import replace

import numpy as np
import pytest

from megatron_speech.chat.events import AudioChunk, TextDelta
from megatron_speech.chat.rhythm import TokenKind
from megatron_speech.chat.template import MODES
from megatron_speech.text.vocab import ASSISTANT
from tests.chat.parts import EchoDecoder, make_engine, question, scripted, write_model

LETTERS = {
    TokenKind.TEXT: "t",
    TokenKind.CODE: "c",
    TokenKind.BEGIN: "b",
    TokenKind.END: "e",
    TokenKind.STOP: "s",
}
PAIR = "t" * 13 + "c" * 26
SCRIPTS = {
    "text": "t" * 20 + "s",
    "direct": "c" * 30 + "es",
    "guided": "t" * 20 + "b" + "c" * 30 + "es",
    "streaming": 2 * PAIR + "t" * 4 + "c" * 30 + "s",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("session"))


def letters(engine, tokens) -> str:
    """Of an answer behind the assistant's mark, as in `ScriptedTokens`."""
    assert tokens[0] == engine.vocab.text.id_of(ASSISTANT)
    return "".join(LETTERS[engine._parts.kinds.kind(token)] for token in tokens[1:])


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_of_each_mode_is_heard_shown_and_kept(model, mode):
    decoder = EchoDecoder()
    engine = make_engine(model, decoder, mode=mode, max_new_tokens=200)
    session = scripted(engine, SCRIPTS[mode])
    events = list(session.respond(question(3, 5, 7)))
    assert events[-1].reason == "stop"
    answer = session.history[-1]
    begin = "b" if mode == "direct" else ""
    assert letters(engine, answer.tokens) == begin + SCRIPTS[mode][:-1]
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == answer.text
    assert len(answer.text) == SCRIPTS[mode].count("t")
    assert answer.codes.tolist() == [n % 16 for n in range(SCRIPTS[mode].count("c"))]
    sound = [e.samples for e in events if isinstance(e, AudioChunk)]
    assert np.array_equal(np.concatenate([[], *sound]), decoder.decode(answer.codes))
    assert not answer.interrupted


def test_streaming_allows_nothing_but_13_and_26(model):
    session = scripted(make_engine(model, max_new_tokens=200), SCRIPTS["streaming"])
    list(session.respond(question(3)))
    allowed = {
        place: "".join(sorted(LETTERS[kind] for kind in kinds))
        for place, kinds in session._tokens.allowed.items()
    }
    for start in (0, 39):
        assert allowed[start] == ("cst" if start else "t")
        assert {allowed[start + n] for n in range(1, 13)} == {"ct"}
        assert allowed[start + 13] == "c"
        assert {allowed[start + n] for n in range(14, 39)} == {"cs"}
    tail = 2 * 39 + 5  # a code came where text was due
    assert {allowed[n] for n in range(tail, tail + 29)} == {"cs"}


LEFT = {
    ("text", 0.0): "t" * 20,
    ("text", 0.8): "t" * 20,
    ("direct", 0.0): "",
    ("direct", 0.03): "",
    ("direct", 0.8): "b" + "c" * 10 + "e",
    ("direct", 9.0): "b" + "c" * 30 + "e",
    ("guided", 0.0): "",
    ("guided", 0.8): "t" * 20 + "b" + "c" * 10 + "e",
    ("guided", 9.0): "t" * 20 + "b" + "c" * 30 + "e",
    ("streaming", 0.0): "",
    ("streaming", 0.8): "t" * 13 + "c" * 10,
    ("streaming", 2.4): PAIR + "t" * 13 + "c" * 4,
}


@pytest.mark.parametrize(("mode", "heard_s"), LEFT)
def test_what_was_heard_is_kept_as_a_whole_answer_would_be(model, mode, heard_s):
    engine = make_engine(model, mode=mode, max_new_tokens=200)
    session = scripted(engine, SCRIPTS[mode])
    list(session.respond(question(3)))
    session.interrupt(heard_s)
    answer = session.history[-1]
    left = LEFT[mode, heard_s]
    assert letters(engine, answer.tokens) == left
    assert len(answer.text) == left.count("t")
    assert len(answer.codes) == left.count("c")


@pytest.mark.parametrize("ends", ["interrupted", "length"])
@pytest.mark.parametrize(
    ("mode", "made"), [("direct", "bcc"), ("guided", "ttbcc"), ("guided", "ttb"), ("guided", "tt")]
)
def test_an_answer_that_broke_off_ends_its_speech(model, mode, made, ends):
    given = made.removeprefix("b") if mode == "direct" else made
    room = len(given) if ends == "length" else 200
    engine = make_engine(model, mode=mode, max_new_tokens=room)
    session = scripted(engine, given + "c")
    source = session._tokens
    choose = source.choose

    def stops(allowed):
        if source.place == len(given) - 1 and ends == "interrupted":
            session.interrupt()
        return choose(allowed)

    source.choose = stops
    assert list(session.respond(question(3)))[-1].reason == ends
    kept = letters(engine, session.history[-1].tokens)
    assert kept == {"bcc": "bcce", "ttbcc": "ttbcce", "ttb": "tt", "tt": "tt"}[made]


def test_a_direct_answer_interrupted_before_it_began_has_no_mark_of_audio(model):
    engine = make_engine(model, mode="direct")
    session = engine.session()
    events = session.respond(question(3))
    next(events)
    session.interrupt()
    assert next(events).reason == "interrupted"
    assert letters(engine, session.history[-1].tokens) == ""


def test_without_a_speech_decoder_nothing_is_forgotten_for_want_of_sound(model):
    engine = make_engine(model)
    engine._parts = replace(engine._parts, decoder=None)
    session = scripted(engine, PAIR + "s")
    list(session.respond("hello"))
    session.interrupt(0.0)
    assert letters(engine, session.history[-1].tokens) == PAIR
