"""An engine that answers aloud by espeak-ng, for a page that is listened to."""

import threading

import numpy as np

from megatron_speech.audio import SAMPLE_RATE_HZ
from megatron_speech.chat.events import AudioChunk, Done, Heard, TextDelta, Timing
from megatron_speech.errors import AudioError
from megatron_speech.text_to_speech.espeak import Delivery, Espeak
from tests.chat.fake_engine import FakeEngine

QUESTIONS = ("Where did Mira find the red lamp?", "No, tell me about the boat instead.")
ANSWER = (
    "Mira found the red lamp in the old harbour, behind the boat that her brother had painted. "
    "She carried it home before the rain began, and the whole street was lit."
)
LATE_S = 0.45


def speak(text: str) -> np.ndarray:
    """float32 (samples,) at 16 kHz."""
    return Espeak().speak(text, Delivery(voice="en-us", pitch=50, words_per_minute=165))


class TalkingEngine(FakeEngine):
    """Says ANSWER with espeak-ng, somewhat faster than it is spoken, in pieces of 0.8 s."""

    def __init__(self):
        super().__init__()
        self.sound = speak(ANSWER)
        self.stopped_s: list[float] = []

    def session(self):
        return TalkingSession(self)

    def overhear(self, audio, sample_rate_hz):
        return QUESTIONS[0][:9]

    def transcribe(self, codes):
        return QUESTIONS[0]


class TalkingSession:
    """See TalkingEngine."""

    def __init__(self, engine: TalkingEngine):
        self._engine, self._stop, self._asked = engine, threading.Event(), 0.0

    def respond(self, user, sample_rate_hz=SAMPLE_RATE_HZ):
        engine = self._engine
        self._stop.clear()
        engine.questions.append((user, sample_rate_hz))
        if not isinstance(user, str) and abs(user).max() < 1e-4:
            raise AudioError("the question is silent: check the microphone")
        seconds = 0.0 if isinstance(user, str) else len(user) / sample_rate_hz
        yield Heard(codes=np.zeros(round(seconds * 12.5), np.int64), duration_s=seconds)
        self._stop.wait(LATE_S)
        parts = {"tokenise_s": 0.06, "prefill_s": 0.09, "first_tokens_s": 0.21}
        timing = Timing(**parts, first_decode_s=0.07, first_audio_s=LATE_S, total_s=2.9, audio_s=8)
        words, step = ANSWER.split(" "), int(0.8 * SAMPLE_RATE_HZ)
        pieces = range(0, len(engine.sound), step)
        for number, start in enumerate(pieces):
            if self._stop.is_set():
                break
            share = [round(len(words) * n / len(pieces)) for n in (number, number + 1)]
            yield TextDelta(text="".join(word + " " for word in words[slice(*share)]))
            sound = engine.sound[start : start + step]
            yield AudioChunk(samples=sound, sample_rate_hz=SAMPLE_RATE_HZ)
            if number == 0:
                yield timing
            self._stop.wait(0.4)
        yield Done(reason="interrupted" if self._stop.is_set() else "stop", timing=timing)

    def interrupt(self, heard_s=None):
        self._engine.interruptions.append(heard_s)
        self._stop.set()
