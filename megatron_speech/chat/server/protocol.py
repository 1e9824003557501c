"""What client and server say to each other over the WebSocket.

Text messages are JSON objects with a `type`, binary ones are sound: 16-bit little-endian mono PCM.

    client: hello {sample_rate_hz, token?}            first, once
            <binary>                                  more of the question
            ask {text?}                               the question is complete (or is this text)
            discard                                   forget the question's sound so far
            interrupt {heard_s?}                      stop the answer; so much of it was played
    server: waiting {place, waiting}                  until a place is free, when it changes
            ready {session_s, question_s, idle_s}
            hearing {turn, text}                      so far, while the question is spoken
            heard {turn, duration_s}                  the answer `turn` begins
            transcript {turn, text}                   what was understood of the question
            text {turn, text, at_s}                   more of its text; at_s of its sound is out
            sound {turn, sample_rate_hz}              once, before the answer's first sound
            <binary>                                  more of the sound of the last `sound`
            timing {turn, ...}                        when the first sound is out
            done {turn, reason, timing}               stop | length | interrupted
            refused {turn, message}                   this question cannot be answered; ask another
            ended {reason, message}                   the connection is closed: origin | full |
                                                      token | idle | session_length | protocol |
                                                      failure
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...errors import DataError
from ...io.files import json_text
from ..events import AudioChunk, Done, Event, Heard, TextDelta, Timing

SAMPLE_BYTES = 2
RATES_HZ = (8_000, 192_000)
MOST_TEXT = 4_000
"""Characters of a written question."""
MOST_HEARD_S = 86_400
"""Of an answer: no conversation lasts a day."""
_FULL_SCALE = 32_767

Message = str | bytes


class ProtocolError(DataError):
    """A message that no client of ours sends."""


class EndedError(Exception):
    """A connection that ends, and what its client is told: `reason` as in `ended` above."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason, self.message = reason, message


@dataclass(frozen=True)
class Hello:
    """A client introduces itself."""

    sample_rate_hz: int
    token: str


@dataclass(frozen=True)
class Ask:
    """The question is complete; `text` instead of its sound, if given."""

    text: str | None


@dataclass(frozen=True)
class Discard:
    """The sound so far was no question."""


@dataclass(frozen=True)
class Interrupt:
    """Stop answering; `heard_s` of the sound was played, None if the client does not say."""

    heard_s: float | None


Request = Hello | Ask | Discard | Interrupt


def parse(text: str) -> Request:
    """Read a text message.

    Raises:
        ProtocolError: no JSON object, an unknown type, or a field out of range.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ProtocolError("a text message is JSON of too many levels") from None
    except ValueError:
        raise ProtocolError(
            "a text message is not JSON, or has a number of too many digits"
        ) from None
    if not isinstance(found, dict):
        raise ProtocolError(f"a text message is a JSON {type(found).__name__}, not an object")
    match found.get("type"):
        case "hello":
            return Hello(_rate(found.get("sample_rate_hz")), _text(found, "token") or "")
        case "ask":
            return Ask(_text(found, "text"))
        case "discard":
            return Discard()
        case "interrupt":
            return Interrupt(_seconds(found.get("heard_s")))
    raise ProtocolError(f"unknown type of message: {_shown(found.get('type'))}")


def _rate(value: Any) -> int:
    if type(value) is not int or not RATES_HZ[0] <= value <= RATES_HZ[1]:
        raise ProtocolError(
            f"sample_rate_hz is {_shown(value)}; expected a whole number from {RATES_HZ[0]} to "
            f"{RATES_HZ[1]}"
        )
    return value


def _text(found: dict[str, Any], name: str) -> str | None:
    value = found.get(name)
    if value is not None and not isinstance(value, str):
        raise ProtocolError(f"{name} is {type(value).__name__}; expected a string")
    if value is not None and len(value) > MOST_TEXT:
        raise ProtocolError(f"{name} has {len(value)} characters; at most {MOST_TEXT} are read")
    if value is not None and any("\ud800" <= character <= "\udfff" for character in value):
        raise ProtocolError(f"{name} has half of a surrogate pair; expected whole characters")
    return value


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= MOST_HEARD_S:
        raise ProtocolError(
            f"heard_s is {_shown(value)}; expected seconds from 0 to {MOST_HEARD_S}, or nothing"
        )
    return float(value)


def _shown(value: Any) -> str:
    """A value from a client, to be named to it: short, and never the depths of a list."""
    if isinstance(value, list | dict):
        return f"a JSON {type(value).__name__}"
    return repr(value)[:40]


def from_pcm(data: bytes | bytearray) -> np.ndarray:
    """16-bit PCM, an even number of bytes -> float32 (samples,) in -1..1."""
    return np.frombuffer(bytes(data), dtype="<i2").astype(np.float32) / (_FULL_SCALE + 1)


def to_pcm(samples: np.ndarray) -> bytes:
    """Float (samples,) -> 16-bit PCM; what lies beyond full scale is clipped, NaN is silence."""
    clipped = np.clip(np.nan_to_num(samples), -1.0, 1.0)
    return np.rint(clipped * _FULL_SCALE).astype("<i2").tobytes()


def say(kind: str, **fields: Any) -> str:
    """A text message, in ASCII: what a model or an error quotes may not be encodable as it is."""
    return json_text({"type": kind, **fields}, ensure_ascii=True)


class AnswerWriter:
    """Events of one answer -> messages."""

    def __init__(self, turn: int):
        self._turn, self._sound_s = turn, 0.0

    def messages(self, event: Event) -> list[Message]:
        """What the client is told of it."""
        turn = self._turn
        match event:
            case Heard():
                return [say("heard", turn=turn, duration_s=event.duration_s)]
            case TextDelta():
                return [say("text", turn=turn, text=event.text, at_s=round(self._sound_s, 3))]
            case AudioChunk():
                first = not self._sound_s
                self._sound_s += len(event.samples) / event.sample_rate_hz
                begin = say("sound", turn=turn, sample_rate_hz=event.sample_rate_hz)
                return [*([begin] if first else []), to_pcm(event.samples)]
            case Timing():
                return [say("timing", turn=turn, **_timing(event))]
            case Done():
                return [say("done", turn=turn, reason=event.reason, timing=_timing(event.timing))]


def _timing(timing: Timing) -> dict[str, Any]:
    return {**asdict(timing), "real_time_factor": timing.real_time_factor}
