"""What a session says while it answers, and the turns it keeps."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Heard:
    """The question was taken in. `codes` (n,) int64, none of a written one."""

    codes: np.ndarray
    duration_s: float
    """Of the user's speech."""


@dataclass(frozen=True, kw_only=True)
class TextDelta:
    """More of the answer's text; deltas joined are the text."""

    text: str


@dataclass(frozen=True, kw_only=True)
class AudioChunk:
    """More of the answer's sound: float32 mono (samples,); chunks joined are the sound."""

    samples: np.ndarray
    sample_rate_hz: int


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Where the time went, in seconds. Sent when the first sound is out, or the first text where no
    sound follows; the whole answer's is in `Done`. What did not happen is None."""

    tokenise_s: float
    """Question's audio to codes."""
    prefill_s: float
    """Model reads the history and the question."""
    first_tokens_s: float | None = None
    """Decoding until the codes of the first sound are there: 13 + 10 tokens when streaming."""
    first_decode_s: float | None = None
    """Speech decoder, codes to the first sound."""
    first_text_s: float | None = None
    """From the question's end to the first text."""
    first_audio_s: float | None = None
    """From the question's end to the first sound."""
    total_s: float = 0.0
    """From the question's end to now."""
    prompt_tokens: int = 0
    """Tokens in the model's memory before the answer."""
    text_tokens: int = 0
    speech_tokens: int = 0
    audio_s: float = 0.0
    """Sound given out so far."""

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work per second of sound; below 1 the sound does not stop."""
        return self.total_s / self.audio_s if self.audio_s else None


Reason = Literal["stop", "length", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class Done:
    """The last event. stop: the model ended; length: the limit did; interrupted: somebody did."""

    reason: Reason
    timing: Timing


Event = Heard | TextDelta | AudioChunk | Timing | Done


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A turn of the history."""

    role: Literal["user", "assistant"]
    tokens: tuple[int, ...]
    """As the model has them, with the mark of the turn."""
    text: str | None = None
    """None of a spoken question."""
    codes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) int64."""
    interrupted: bool = False


@dataclass(frozen=True)
class SpokenCodes:
    """A question that was tokenised already: (n,) int64, from whoever heard it while it came."""

    codes: np.ndarray
