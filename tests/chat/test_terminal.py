"""The conversation on a terminal."""

import signal

import pytest
import soundfile

from megatron_speech.audio import SAMPLE_RATE_HZ
from megatron_speech.chat.terminal import TerminalChat
from tests.chat.parts import make_engine, question, scripted, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("terminal"))


def typed(monkeypatch, *lines):
    """What the user types; Ctrl-C where it is none."""
    waiting = iter(lines)

    def line(prompt):
        text = next(waiting)
        if text is None:
            raise KeyboardInterrupt
        return text

    monkeypatch.setattr("builtins.input", line)


def test_talk_asks_what_is_typed_and_says_what_cannot_be_asked(
    model, tmp_path, monkeypatch, capsys
):
    chat = TerminalChat(make_engine(model).session(), tmp_path)
    soundfile.write(tmp_path / "asked.wav", question(3, 5, 7), SAMPLE_RATE_HZ)
    typed(monkeypatch, "hello", "no.wav", str(tmp_path / "asked.wav"), "  ", "never asked")
    chat.talk()
    assert len(chat.answers) == 2
    assert [turn.text for turn in chat.session.history[::2]] == ["hello", None]
    printed = capsys.readouterr().out
    assert printed.count("error: ") == 1
    assert "no.wav" in printed
    assert "first sound" in printed
    for number, answer in enumerate(chat.answers):
        kept = soundfile.info(tmp_path / f"turn_{number:03d}.wav")
        assert kept.duration == pytest.approx(answer.timing.audio_s)


def test_ctrl_c_ends_an_answer_and_at_the_prompt_the_conversation(
    model, tmp_path, monkeypatch, capsys
):
    session = scripted(make_engine(model, mode="text"), "t" * 50 + "s")
    source, before = session._tokens, signal.getsignal(signal.SIGINT)
    choose = source.choose

    def pressed(allowed):
        if source.place == 5:
            signal.raise_signal(signal.SIGINT)
        return choose(allowed)

    source.choose = pressed
    chat = TerminalChat(session, tmp_path)
    typed(monkeypatch, "hello", None)
    chat.talk()
    assert [answer.reason for answer in chat.answers] == ["interrupted"]
    assert session.history[-1].text == "abcdef"
    assert "[interrupted; " in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_what_the_first_could_not(model, tmp_path):
    session = scripted(make_engine(model, mode="text"), "t" * 50 + "s")
    before, pressed = signal.getsignal(signal.SIGINT), []

    def never_returns(allowed):
        for _ in range(2):
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)
        raise AssertionError("still here")

    session._tokens.choose = never_returns
    with pytest.raises(KeyboardInterrupt):
        TerminalChat(session, tmp_path).ask("hello")
    assert len(pressed) == 2
    assert signal.getsignal(signal.SIGINT) is before
