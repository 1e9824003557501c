"""A conversation on a terminal: text as it comes, sound into WAV files, times at the end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..audio import read_audio
from ..errors import MegatronSpeechError
from ..io.audio_files import encoded
from ..io.files import atomic_path
from .events import AudioChunk, Done, TextDelta, Timing
from .session import ChatSession

_RECORDINGS = (".wav", ".flac", ".ogg", ".mp3")


class TerminalChat:
    """Prints a session's answers and keeps their sound as `turn_<nnn>.wav` in a folder."""

    def __init__(self, session: ChatSession, folder: Path):
        self.session, self.folder = session, folder
        self.answers: list[Done] = []

    def ask(self, question: str) -> Done:
        """Ask by a recording's path or a text; a first Ctrl-C interrupts the answer.

        Raises:
            AudioError, DataError: the recording cannot be used, or the question is too long.
        """
        spoken = question.lower().endswith(_RECORDINGS)
        user = read_audio(question) if spoken else question
        chunks: list[AudioChunk] = []
        with _ctrl_c_interrupts(self.session):
            for event in self.session.respond(user):
                if isinstance(event, TextDelta):
                    print(event.text, end="", flush=True)
                elif isinstance(event, AudioChunk):
                    chunks.append(event)
                elif isinstance(event, Done):
                    self.answers.append(event)
        done = self.answers[-1]
        where = self._keep(chunks)
        print(f"\n[{done.reason}; {describe(done.timing)}{where}]", flush=True)
        return done

    def _keep(self, chunks: list[AudioChunk]) -> str:
        if not chunks:
            return ""
        path = self.folder / f"turn_{len(self.answers) - 1:03d}.wav"
        sound = np.concatenate([chunk.samples for chunk in chunks])
        with atomic_path(path) as temporary:
            temporary.write_bytes(encoded(sound, chunks[0].sample_rate_hz, "WAV"))
        return f"; {path}"

    def talk(self) -> None:
        """Ask what is typed until an empty line, Ctrl-C or Ctrl-D; a question that cannot be asked
        is said so."""
        while True:
            try:
                question = input("> ").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if not question:
                return
            try:
                self.ask(question)
            except MegatronSpeechError as error:
                print(f"error: {error}", flush=True)


def describe(timing: Timing) -> str:
    """The parts of the latency that happened, in seconds."""
    named = (
        ("tokenise", timing.tokenise_s),
        ("prefill", timing.prefill_s),
        ("first tokens", timing.first_tokens_s),
        ("first decode", timing.first_decode_s),
        ("first text", timing.first_text_s),
        ("first sound", timing.first_audio_s),
        ("all", timing.total_s),
    )
    shown = [f"{name} {value:.2f} s" for name, value in named if value is not None]
    if timing.real_time_factor is not None:
        shown.append(f"real-time factor {timing.real_time_factor:.2f}")
    return ", ".join(shown)


@contextmanager
def _ctrl_c_interrupts(session: ChatSession) -> Iterator[None]:
    """The first Ctrl-C stops the answer and not the program, the second does what it does anywhere:
    the model may not return. Only the main thread hears of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def first(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        session.interrupt()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
