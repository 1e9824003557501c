"""An answer while it is made: tokens in, text and sound out, and the time each part took."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..text.tokenizers import TextTokenizer
from ..text.vocab import SpeechTextVocab
from .events import AudioChunk, DecoderStream, Event, TextDelta, Timing
from .rhythm import TokenKind

_BROKEN = "\ufffd"  # a character of which only some bytes are there


class Stopwatch:
    """Times of one answer, from the moment the question ended."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """The time since the last lap went into `name`; only its first one counts."""
        now = time.monotonic()
        self.seconds.setdefault(name, now - self._last)
        self._last = now

    def since_start(self, name: str) -> bool:
        """Note when `name` happened first, from the start; True if it just did."""
        first = name not in self.seconds
        self.seconds.setdefault(name, self.total())
        return first

    def total(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start


class TextStream:
    """Token ids one by one -> text as soon as its characters are whole."""

    def __init__(self, tokenizer: TextTokenizer):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = self._given = 0  # a few ids before those given: spaces depend on them

    def push(self, token: int) -> str:
        """What `token` adds; nothing while a character is incomplete."""
        self._ids.append(token)
        return self._new(final=False)

    def finish(self) -> str:
        """What was held back."""
        return self._new(final=True)

    def _new(self, final: bool) -> str:
        known = self._tokenizer.decode(self._ids[self._context : self._given])
        text = self._tokenizer.decode(self._ids[self._context :])
        if not final and text.endswith(_BROKEN):
            return ""
        self._context, self._given = self._given, len(self._ids)
        return text[len(known) :]


@dataclass(frozen=True)
class Voice:
    """What speaks one answer."""

    stream: DecoderStream
    sample_rate_hz: int


class Answer:
    """The tokens of an answer as they come, and the events they give.

    Args:
        voice: None gives no sound.
        decode_codes: codes handed to the speech decoder at a time.
    """

    def __init__(
        self, vocab: SpeechTextVocab, watch: Stopwatch, voice: Voice | None, decode_codes: int
    ):
        self.tokens: list[int] = []
        self.text_ids: list[int] = []
        self.codes: list[int] = []
        self.prompt_tokens = 0
        self._vocab, self._watch = vocab, watch
        self._text = TextStream(vocab.text)
        self._voice, self._decode_codes = voice, decode_codes
        self._decoded, self._audio_s = 0, 0.0

    def take(self, token: int, kind: TokenKind) -> Iterator[Event]:
        """Append a token; the events that it completes."""
        self.tokens.append(token)
        if kind == TokenKind.TEXT:
            self.text_ids.append(token)
            yield from self._say(self._text.push(token))
        elif kind == TokenKind.CODE:
            self.codes.append(int(self._vocab.tokens_to_codes([token])[0]))
            if len(self.codes) - self._decoded == self._decode_codes:
                yield from self._decode()

    def finish(self) -> Iterator[Event]:
        """What is left of text and sound."""
        yield from self._say(self._text.finish())
        if self._voice is not None and self.codes:
            if len(self.codes) > self._decoded:
                yield from self._decode()
            yield from self._sound(self._voice, self._voice.stream.finish())

    def _say(self, text: str) -> Iterator[Event]:
        if text:
            first = self._watch.since_start("first_text_s")
            yield TextDelta(text=text)
            if first and self._voice is None:
                yield self.timing()

    def _decode(self) -> Iterator[Event]:
        self._watch.lap("first_tokens_s")
        codes = np.array(self.codes[self._decoded :], dtype=np.int64)
        self._decoded = len(self.codes)
        if self._voice is not None:
            yield from self._sound(self._voice, self._voice.stream.feed(codes))

    def _sound(self, voice: Voice, samples: np.ndarray) -> Iterator[Event]:
        if not len(samples):
            return
        self._audio_s += len(samples) / voice.sample_rate_hz
        self._watch.lap("first_decode_s")
        first = self._watch.since_start("first_audio_s")
        yield AudioChunk(samples=samples, sample_rate_hz=voice.sample_rate_hz)
        if first:
            yield self.timing()

    def timing(self) -> Timing:
        """Times and counts so far."""
        times = {"tokenise_s": 0.0, "prefill_s": 0.0, **self._watch.seconds}
        return Timing(
            **times,
            total_s=self._watch.total(),
            prompt_tokens=self.prompt_tokens,
            text_tokens=len(self.text_ids),
            speech_tokens=len(self.codes),
            audio_s=self._audio_s,
        )
