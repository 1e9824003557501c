"""An answer while it is made: tokens in, text and sound out, and the time each part took."""

import time
from collections.abc import Iterator

import numpy as np

from ..speech_decoder.stream import SpeechDecodeStream
from ..text.tokenizers import TextTokenizer
from ..text.vocab import SpeechTextVocab
from .events import AudioChunk, Event, TextDelta, Timing
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

    def push(self, *tokens: int) -> str:
        """What `tokens` add; nothing while a character is incomplete, no tokens give the rest."""
        self._ids += tokens
        known = self._tokenizer.decode(self._ids[self._context : self._given])
        text = self._tokenizer.decode(self._ids[self._context :])
        if tokens and text.endswith(_BROKEN):
            return ""
        self._context, self._given = self._given, len(self._ids)
        return text[len(known) :]


class Answer:
    """The tokens of an answer as they come, and the events they give.

    Args:
        decode_codes: codes handed to the speech decoder at a time.
        voice: what speaks this answer; None gives no sound.
    """

    def __init__(
        self,
        vocab: SpeechTextVocab,
        watch: Stopwatch,
        decode_codes: int,
        voice: SpeechDecodeStream | None,
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
        yield from self._say(self._text.push())
        if self._voice is not None and self.codes:
            if len(self.codes) > self._decoded:
                yield from self._decode()
            yield from self._sound(self._voice.finish())

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
            yield from self._sound(self._voice.feed(codes))

    def _sound(self, samples: np.ndarray) -> Iterator[Event]:
        if not len(samples) or self._voice is None:
            return
        rate_hz = self._voice.sample_rate_hz
        self._audio_s += len(samples) / rate_hz
        self._watch.lap("first_decode_s")
        first = self._watch.since_start("first_audio_s")
        yield AudioChunk(samples=samples, sample_rate_hz=rate_hz)
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
