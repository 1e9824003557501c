"""Multilingual LibriSpeech (https://www.openslr.org/94) as it is unpacked. Imports no torch."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..io.rejected import Rejected
from .list_files import keyed_lines, keyed_table
from .manifest import seconds
from .recording import AUDIO_SUFFIXES, Recording

_ID = re.compile(r"([0-9]+)_([0-9]+)_[0-9]+")


def mls_lists(folder: Path, folders: Sequence[str], files: Sequence[str]) -> list[str]:
    known = "audio" in folders and {"transcripts.txt", "segments.txt"} <= set(files)
    return ["transcripts.txt"] if known else []


def read_mls(folder: Path, name: str, root: Path | None) -> Iterator[Recording | Rejected]:
    """Lines `id text`, the sound in `audio/<speaker>/<book>/<id>`, .flac or .opus as released.

    `segments.txt` (`id address start end`) has the seconds of a longer recording that each was cut
    from, and so its length.
    """
    audio = (root or folder) / "audio"
    suffix = _first_suffix(audio)
    bad: list[Rejected] = []
    places = keyed_table(folder / "segments.txt", bad)
    yield from bad
    for item in keyed_lines(folder / name):
        if isinstance(item, Rejected):
            yield item
        else:
            key, text = item
            yield _of_mls(audio, suffix, key, text, places.pop(key, None))
    for key, place in places.items():
        yield _of_mls(audio, suffix, key, "", place)


def _first_suffix(folder: Path) -> str:
    """The suffix of the first audio file below a folder, .flac if there is none."""
    for _, folders, files in os.walk(folder):
        folders.sort()
        for suffix in (os.path.splitext(name)[1] for name in sorted(files)):
            if suffix.lower() in AUDIO_SUFFIXES:
                return suffix
    return ".flac"


def _of_mls(
    audio: Path, suffix: str, key: str, text: str, place: str | None
) -> Recording | Rejected:
    names = _ID.fullmatch(key)
    if names is None:
        return Rejected(key, "invalid_row", "expected an id <speaker>_<book>_<number>")
    duration_s = 0.0
    if place is not None:
        start_s, end_s = (seconds(value) for value in (*place.split()[-2:], None, None)[:2])
        if start_s is None or end_s is None or end_s <= start_s:
            detail = f"segments.txt has {place[:150]!r}, expected address, start and end"
            return Rejected(key, "bad_duration", detail)
        duration_s = end_s - start_s
    path = audio / names[1] / names[2] / f"{key}{suffix}"
    return Recording(id=key, path=str(path), text=text, speaker=names[1], duration_s=duration_s)
