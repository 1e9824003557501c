"""A stop that comes while libsndfile reads or writes by our callbacks is neither lost nor heard."""

import io
import os
import signal

import numpy as np
import pytest

from megatron_speech.io import audio_files

SOUND = np.random.default_rng(0).uniform(-0.5, 0.5, 50_000)


class Pressed(io.BytesIO):
    """A file that Ctrl-C meets at its `at`-th call."""

    at, calls = -1, 0

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), signal.SIGINT)

    def readinto(self, buffer):
        self._call()
        return super().readinto(buffer)

    def write(self, data):
        self._call()
        return super().write(data)

    def seek(self, *place):
        self._call()
        return super().seek(*place)


def read(content: bytes, at: int = -1) -> int:
    """Read all of a file; returns how often it was called."""
    file = Pressed(content)
    file.at = at
    with audio_files.open_audio(file, "x") as found:
        found.seek(100)
        while len(found.read(9_000)):
            pass
    return file.calls


def test_reading_ends_wherever_the_stop_comes():
    content = audio_files.encoded(SOUND, 16_000)
    calls = read(content)
    assert calls > 10
    for at in range(1, calls):
        with pytest.raises(KeyboardInterrupt):
            read(content, at)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nothing_is_made_of_writing_that_was_stopped(monkeypatch):
    monkeypatch.setattr(audio_files.io, "BytesIO", Pressed)
    whole = audio_files.encoded(SOUND, 16_000)
    for at in (1, 3, 7):
        monkeypatch.setattr(Pressed, "at", at)
        with pytest.raises(KeyboardInterrupt):
            audio_files.encoded(SOUND, 16_000)
    monkeypatch.setattr(Pressed, "at", -1)
    assert audio_files.encoded(SOUND, 16_000) == whole
