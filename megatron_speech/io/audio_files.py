"""Audio files opened by libsndfile and decoded to their true end. Imports no torch."""

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from os import PathLike
from typing import BinaryIO

import numpy as np
import soundfile

from ..errors import AudioError
from .containers import Container, Pieces, Stream, walk
from .stops import stops_wait

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 4_000, 768_000
"""Rates of sound; a header that says 1 Hz would make hours of a second."""

_UNKNOWN_FRAMES = 1 << 62
_MP3_FRAME_SAMPLES = 1152
_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # the process's fault, not the file's
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def encoded(audio: np.ndarray, rate_hz: int, file_format: str = "FLAC") -> bytes:
    """Mono audio (n,), floats of -1 to 1, as a file of 16 bits.

    In memory: what libsndfile itself writes to a full disk is no OSError with its errno.
    """
    data = io.BytesIO()
    with stops_wait():
        soundfile.write(data, audio, rate_hz, subtype="PCM_16", format=file_format)
    return data.getvalue()


@contextmanager
def open_audio(source: str | PathLike[str] | BinaryIO, name: str) -> Iterator["AudioFile"]:
    """A recording, `name` in errors, ready to be decoded; what goes wrong inside is caught, too.

    Raises:
        AudioError: it is `missing`, `not_a_file`, `unreadable` (or cut short), or of no
            `sample_rate` that sound has.
    """
    with audio_errors(name), ExitStack() as stack:
        if isinstance(source, str | PathLike):
            container = _container_of(source, name)
            file = stack.enter_context(open(source, "rb", buffering=0))
        else:
            file = source
            container = walk(file, file.seek(0, io.SEEK_END))
        if container.problem:
            raise AudioError(f"{name} {container.problem}", reason="unreadable")
        audio = AudioFile(file, container, name)
        stack.callback(audio.close)
        yield audio


@contextmanager
def audio_errors(name: str) -> Iterator[None]:
    """Whatever one file raises while it is read, as an `AudioError` about `name`.

    Raises:
        AudioError: `missing` or `unreadable`.
        OSError: the process lacks memory or may open no more files.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError(f"{name} does not exist", reason="missing") from None
    except (soundfile.SoundFileError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _OUT_OF:
            raise
        why = getattr(error, "error_string", error)  # its text alone also names the descriptor
        raise AudioError(f"{name} cannot be read: {why}", reason="unreadable") from None


def duration_s(path: str | PathLike[str]) -> float:
    """Length of a recording, of which no more is read than where its parts are.

    Raises:
        AudioError: as `open_audio`.
    """
    with open_audio(path, f"recording {path}") as file:
        return file.frames / file.rate_hz


def check_rate(rate_hz: float, name: str) -> None:
    """Refuse a rate by which a second would become hours, or a waveform nothing.

    Raises:
        AudioError: it is below 4 or above 768 kHz (`sample_rate`); `name` says whose it is.
    """
    if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
        raise AudioError(
            f"{name} has a sample rate of {rate_hz:,} Hz, expected {LOWEST_RATE_HZ:,} to "
            f"{HIGHEST_RATE_HZ:,}",
            reason="sample_rate",
        )


class AudioFile:
    """All streams of a file, one after the other. Made by `open_audio`."""

    def __init__(self, file: BinaryIO, container: Container, name: str):
        self._file, self._streams, self._name = file, container.streams, name
        self._number, self._current = 0, self._open(0)
        first = self._current
        self.rate_hz: int = first.samplerate
        self.channels: int = first.channels
        check_rate(self.rate_hz, name)
        self._ends = [self._length(self._streams[0], first)]
        for number in range(1, len(self._streams)):
            with self._open(number) as other:
                if (other.samplerate, other.channels) != (first.samplerate, first.channels):
                    raise self._unreadable(
                        f"changes from {first.samplerate} Hz and {first.channels} channels to "
                        f"{other.samplerate} Hz and {other.channels} channels; split it there"
                    )
                self._ends.append(self._ends[-1] + self._length(self._streams[number], other))
        self.frames = self._ends[-1]
        """Samples per channel."""
        self.rounding_s = _MP3_FRAME_SAMPLES / self.rate_hz if first.format == "MP3" else 0.0
        """By how much other decoders find it longer: they keep what the encoder filled up."""

    def close(self) -> None:
        self._current.close()

    def seek(self, frame: int) -> None:
        """Go on at a frame."""
        number = next((n for n, end in enumerate(self._ends) if frame < end), len(self._ends) - 1)
        self._go_to(number)
        with stops_wait():
            self._current.seek(frame - self._start(number))

    def read(self, count: int) -> np.ndarray:
        """The next frames, (at most `count`, channels), none at the end.

        Raises:
            AudioError: less can be decoded than is announced.
        """
        while True:
            end = self._ends[self._number]
            left = end - self._start(self._number) - self._current.tell()
            if left == 0 and self._number + 1 < len(self._ends):
                self._go_to(self._number + 1)
                continue
            try:
                with stops_wait():
                    block = self._current.read(min(count, left), dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                raise self._ends_early(getattr(error, "error_string", str(error))) from None
            if len(block) < min(count, left):
                raise self._ends_early("")
            return block

    def _start(self, number: int) -> int:
        return self._ends[number - 1] if number else 0

    def _go_to(self, number: int) -> None:
        if number != self._number:
            self._current.close()
            self._number, self._current = number, self._open(number)

    def _open(self, number: int) -> soundfile.SoundFile:
        stream = self._streams[number]
        with stops_wait():
            if stream.pieces[0] != range(_size(self._file)):
                return soundfile.SoundFile(io.BufferedReader(Pieces(self._file, stream.pieces)))
            self._file.seek(0)
            if isinstance(self._file, io.FileIO):
                return soundfile.SoundFile(self._file.fileno(), closefd=False)
            return soundfile.SoundFile(self._file)

    def _length(self, stream: Stream, file: soundfile.SoundFile) -> int:
        frames = file.frames if stream.frames is None else min(stream.frames, file.frames)
        if frames >= _UNKNOWN_FRAMES or (stream.frames is not None and frames < stream.frames):
            raise self._unreadable("does not say how long it is; convert it to WAV or FLAC")
        return frames

    def _ends_early(self, why: str) -> AudioError:
        found = (self._start(self._number) + self._current.tell()) / self.rate_hz
        return self._unreadable(
            f"is damaged or cut short: {found:.3f} s of {self.frames / self.rate_hz:.3f} s can be "
            f"decoded{f' ({why})' if why else ''}"
        )

    def _unreadable(self, what: str) -> AudioError:
        return AudioError(f"{self._name} {what}", reason="unreadable")


def _size(file: BinaryIO) -> int:
    return file.seek(0, io.SEEK_END)


def _container_of(path: str | PathLike[str], name: str) -> Container:
    try:
        state = os.stat(path)
    except ValueError as error:  # a zero byte, or half a surrogate pair
        raise AudioError(f"{name} does not exist: {error}", reason="missing") from None
    if not stat.S_ISREG(state.st_mode):
        kind = _KINDS.get(stat.S_IFMT(state.st_mode), "no file")
        raise AudioError(f"{name} is {kind}, expected an audio file", reason="not_a_file")
    return _walked(os.fspath(path), state.st_size, state.st_mtime_ns, state.st_ino)


@lru_cache(maxsize=64)  # a long recording may be read excerpt by excerpt
def _walked(path: str, size: int, changed_ns: int, inode: int) -> Container:
    with open(path, "rb", buffering=0) as file:
        return walk(file, size)
