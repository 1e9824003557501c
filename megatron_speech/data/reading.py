"""The sound of a recording, wherever it is: in a file, in a tar, in a row of Parquet."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..audio import Excerpt, stream_audio
from ..io.audio_files import audio_errors, open_audio
from ..io.containers import Pieces
from .parquet_audio import read_sound
from .recording import Recording

_MOST_BYTES_AT_ONCE = 1 << 26
_BUFFER_BYTES = 1 << 20


def stream_recording(recording: Recording) -> Iterator[np.ndarray]:
    """Blocks (n,) of a recording at 16 kHz mono.

    Raises:
        AudioError: as `stream_audio`, possibly after some blocks.
    """
    part = Excerpt(
        start_s=recording.start_s, duration_s=recording.length_s, channels=recording.channels
    )
    with _source_of(recording) as (source, name):
        yield from stream_audio(source, name, part)


def length_s(recording: Recording) -> float:
    """How long a recording is, of which no more is read than where its parts are.

    Raises:
        AudioError: as `open_audio`.
    """
    if recording.length_s is not None:
        return recording.length_s
    with _source_of(recording) as (source, name), open_audio(source, name) as file:
        return file.frames / file.rate_hz - recording.start_s


@contextmanager
def _source_of(recording: Recording) -> Iterator[tuple[str | Path | BinaryIO, str]]:
    name = f"recording {recording.id}"
    if recording.parquet_place is not None:
        found = read_sound(recording)
        if isinstance(found, Path):
            yield found, name
            return
        with io.BytesIO(found) as source:  # closed: soundfile's cycles would keep it for long
            yield source, name
    elif recording.tar_place is not None:
        with (
            audio_errors(name),
            open(recording.path, "rb") as tar,
            _part_of(tar, *recording.tar_place) as source,
        ):
            yield source, name
    else:
        yield recording.path, f"recording {recording.path}"


def _part_of(file: BinaryIO, offset: int, size: int) -> BinaryIO:
    """A stretch of a file as a file: in memory, or if it is large by reading as it goes."""
    if size > _MOST_BYTES_AT_ONCE:
        return io.BufferedReader(Pieces(file, [range(offset, offset + size)]), _BUFFER_BYTES)
    file.seek(offset)
    return io.BytesIO(file.read(size))
