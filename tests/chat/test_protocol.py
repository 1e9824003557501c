"""Messages of hostile clients: each is refused as one, and the refusal itself can be sent."""

import pytest

from megatron_speech.chat.server.protocol import Ask, Interrupt, ProtocolError, parse, say

DIGITS = "7" * 400
"""More than a float holds; Python reads up to 4,300 of them as an int."""
REFUSED = {
    "seconds beyond a float": f'{{"type": "interrupt", "heard_s": {DIGITS}}}',
    "seconds that Python does not read": f'{{"type": "interrupt", "heard_s": {DIGITS * 11}}}',
    "seconds that overflow later": '{"type": "interrupt", "heard_s": 1e308}',
    "seconds that are infinite": '{"type": "interrupt", "heard_s": 1e999}',
    "a rate beyond a float": f'{{"type": "hello", "sample_rate_hz": -{DIGITS}}}',
    "a number that nobody asked for": f'{{"type": "discard", "more": {DIGITS * 11}}}',
    "half a pair as a rate": '{"type": "hello", "sample_rate_hz": "\\ud800"}',
    "half a pair as a token": '{"type": "hello", "sample_rate_hz": 16000, "token": "\\udfff"}',
    "half a pair as a question": '{"type": "ask", "text": "a\\ud9ffb"}',
    "half a pair as a type": '{"type": "\\udc00"}',
    "half a pair in a list": '{"type": ["\\udc00"]}',
}


@pytest.mark.parametrize("name", REFUSED)
def test_numbers_and_characters_that_do_not_exist_are_refused(name):
    with pytest.raises(ProtocolError) as refused:
        parse(REFUSED[name])
    message = str(refused.value)
    assert len(message) < 200
    say("ended", reason="protocol", message=message).encode("utf-8")


@pytest.mark.parametrize("depth", [10, 500, 990, 5_000, 20_000, 100_000])
@pytest.mark.parametrize("place", ['{"type": %s}', '{"type": "ask", "text": %s}', '{"a": %s}'])
def test_depth_is_refused_however_deep(depth, place):
    for opened, closed in (("[", "]"), ('{"a":', "}")):
        with pytest.raises(ProtocolError):
            parse(place % (opened * depth + "1" + closed * depth))


def test_what_clients_do_send_is_read():
    assert parse('{"type": "ask", "text": "\\ud83d\\ude00 \\u4f60"}') == Ask("😀 你")
    assert parse('{"type": "interrupt", "heard_s": 0}') == Interrupt(0.0)


def test_what_a_model_says_can_be_sent_whatever_it_is():
    assert "\ud800" not in say("text", text="a\ud800", turn=1)
    say("text", text="a\ud800", turn=1).encode("utf-8")
