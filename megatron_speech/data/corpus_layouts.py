"""Corpora as they are published: which folders they are, and the recordings in them.

What makes a folder a corpus is a list of a known name in it (`LAYOUTS`). LibriSpeech's trees are
folders of audio whose texts stand in `*.trans.txt`: audio_folders.py reads them. Imports no torch.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..io.json_lines import parse_object
from ..io.rejected import Rejected
from .kaldi import KALDI_TABLES, kaldi_lists, read_kaldi
from .list_files import (
    Row,
    as_text,
    keyed_table,
    list_bytes,
    made_of_rows,
    read_jsonl_rows,
    read_tsv_rows,
)
from .manifest import seconds
from .mls import mls_lists, read_mls
from .recording import AUDIO_SUFFIXES, Recording

Found = Iterator[Recording | Rejected]
_MOST_JSON_FILES = 16
_PEEK_BYTES = 1 << 16
_COMMON_VOICE = ("client_id", "path", "sentence")
_COMMON_VOICE_LISTS = ("train.tsv", "validated.tsv")
_NEMO_AUDIO = "audio_filepath"
_LIBRISPEECH_ID = re.compile(r"(\d+)-\d+-\d+")


@dataclass(frozen=True)
class Layout:
    """One way in which corpora lie in folders."""

    looks_like: str
    """What there is in such a folder."""
    lists: Callable[[Path, Sequence[str], Sequence[str]], list[str]]
    """Of a folder, its folders and its files: those files that list recordings; none if it has
    another layout."""
    read: Callable[[Path, str, Path | None], Found]
    """Recordings of a folder by one of its lists; relative paths start from the folder given."""
    tables: tuple[str, ...] = ()
    """Other files of the folder that `read` reads where they are there."""


def layout_of(
    folder: Path, folders: Sequence[str], files: Sequence[str]
) -> tuple[Layout, list[str]] | None:
    """The layout of a folder that holds these folders and files, and its lists."""
    for layout in LAYOUTS:
        lists = layout.lists(folder, folders, files)
        if lists:
            return layout, lists
    return None


def _ljspeech_lists(folder: Path, folders: Sequence[str], files: Sequence[str]) -> list[str]:
    return ["metadata.csv"] if "metadata.csv" in files and "wavs" in folders else []


def _read_ljspeech(folder: Path, name: str, root: Path | None) -> Found:
    """Lines `id|text|text with numbers in words`, of which the last is taken."""
    wavs = (root or folder) / "wavs"
    sounds: dict[str, str] = {}
    if wavs.is_dir():
        for file in sorted(os.listdir(wavs)):
            stem, suffix = os.path.splitext(file)
            if suffix.lower() in AUDIO_SUFFIXES:
                sounds.setdefault(stem, file)
    for number, line in enumerate(list_bytes(folder / name).split(b"\n"), start=1):
        try:
            fields = line.decode("utf-8-sig").strip("\r").split("|")
        except UnicodeDecodeError as error:
            yield Rejected(f"line {number}", "invalid_utf8", str(error))
            continue
        stem = fields[0].strip()
        if len(fields) not in (2, 3) or not stem:
            if line.strip():
                detail = f"{len(fields)} fields, expected id|text|text with numbers in words"
                yield Rejected(f"line {number}", "wrong_number_of_fields", detail)
            continue
        path = wavs / sounds.get(stem, f"{stem}.wav")
        yield Recording(id=stem, path=str(path), text=(fields[-1] or fields[1]).strip())


def _common_voice_lists(folder: Path, folders: Sequence[str], files: Sequence[str]) -> list[str]:
    """The training part, else all that was confirmed: development and test sets are held out."""
    if "clips" not in folders:
        return []
    return [name for name in _COMMON_VOICE_LISTS if name in files][:1]


def is_common_voice(path: Path) -> bool:
    """Whether a TSV is one of Common Voice's: by its header."""
    header = _first_line(path).decode("utf-8", "replace").rstrip("\r\n").split("\t")
    return set(_COMMON_VOICE) <= set(header)


def read_common_voice(folder: Path, name: str, root: Path | None) -> Found:
    """A TSV of Common Voice; the sound is in `clips` beside it."""
    make = partial(_of_common_voice, (root or folder) / "clips")
    return made_of_rows(read_tsv_rows(folder / name, _COMMON_VOICE), make, "invalid_row")


def _of_common_voice(clips: Path, row: Row) -> Recording | Rejected:
    file, text = row.values["path"], row.values["sentence"]
    if not file:
        return Rejected(f"row {row.number}", "no_path", "path is empty")
    stem, suffix = os.path.splitext(file)
    if suffix.lower() not in AUDIO_SUFFIXES:  # the first releases name no suffix
        stem, file = file, f"{file}.mp3"
    language = row.values.get("locale", "")
    return Recording(
        id=stem,
        path=str(clips / file),
        text=text.strip(),
        speaker=row.values["client_id"],
        language=language,
    )


def _nemo_lists(folder: Path, folders: Sequence[str], files: Sequence[str]) -> list[str]:
    """JSON files that are no notes beside recordings."""
    sounds = {os.path.splitext(name)[0] for name in files if _is_audio(name)}
    lists = [
        name
        for name in sorted(files)
        if name.lower().endswith((".json", ".jsonl")) and os.path.splitext(name)[0] not in sounds
    ]
    if len(lists) > _MOST_JSON_FILES:
        return []
    return [name for name in lists if is_nemo_manifest(folder / name)]


def is_nemo_manifest(path: Path) -> bool:
    """Whether a file is JSON lines with `audio_filepath`: by the first of them."""
    first = parse_object("", _first_line(path))
    return not isinstance(first, Rejected) and _NEMO_AUDIO in first


def read_nemo(folder: Path, name: str, root: Path | None) -> Found:
    """JSON lines `audio_filepath, duration, text`, and `offset` where they mean a part of it."""
    make = partial(_of_nemo, root or folder, folder)
    return made_of_rows(read_jsonl_rows(folder / name, _NEMO_AUDIO), make, "invalid_row")


def _of_nemo(root: Path, folder: Path, row: Row) -> Recording | Rejected:
    values = row.values
    file = as_text(values[_NEMO_AUDIO])
    if not file:
        return Rejected(f"row {row.number}", "no_path", f"{_NEMO_AUDIO} is empty")
    name = os.path.splitext(os.path.relpath(file, folder) if os.path.isabs(file) else file)[0]
    name = name.removeprefix("../")
    duration_s = seconds(values.get("duration") or 0.0)
    offset_s = seconds(values.get("offset") or 0.0)
    if duration_s is None or offset_s is None:
        detail = f"offset {values.get('offset')!r}, duration {values.get('duration')!r}"
        return Rejected(name, "bad_duration", f"{detail}; expected seconds"[:200])
    part = values.get("offset") is not None
    known: dict[str, Any] = {
        ours: next((as_text(values[n]) for n in names if values.get(n) is not None), "")
        for ours, names in _NEMO_FIELDS.items()
    }
    return Recording(
        id=f"{name}@{offset_s:.3f}" if part else name,
        path=str(root / file),
        duration_s=duration_s,
        start_s=offset_s,
        length_s=(duration_s or None) if part else None,
        **known,
    )


_NEMO_FIELDS = {
    "text": ("text",),
    "speaker": ("speaker", "speaker_id"),
    "language": ("lang", "language", "source_lang"),
    "license": ("license",),
    "consent": ("consent",),
}


def _is_audio(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def _first_line(path: Path) -> bytes:
    """The first line that is not empty, of the first 64 KiB; nothing of what cannot be read."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(_PEEK_BYTES)
    except OSError:
        return b""
    return next((line for line in start.split(b"\n") if line.strip()), b"")


def librispeech_texts(path: Path, name: str) -> Iterator[tuple[str, str, str] | Rejected]:
    """Id, text and speaker of each line `id TEXT` of a `*.trans.txt`, or why there are none."""
    bad: list[Rejected] = []
    try:
        texts = keyed_table(path, bad)
    except DataError as error:
        yield Rejected(name, "bad_text", str(error))
        return
    yield from bad
    for stem, text in texts.items():
        numbers = _LIBRISPEECH_ID.fullmatch(stem)
        yield stem, text, numbers[1] if numbers else ""


LAYOUTS = (
    Layout(
        "Kaldi: `wav.scp` (and `text`, `segments`, `utt2spk`)",
        kaldi_lists,
        read_kaldi,
        KALDI_TABLES,
    ),
    Layout("LJSpeech: `metadata.csv` and `wavs/`", _ljspeech_lists, _read_ljspeech),
    Layout(
        "Common Voice: `train.tsv` or `validated.tsv`, and `clips/`",
        _common_voice_lists,
        read_common_voice,
    ),
    Layout(
        "MLS: `transcripts.txt`, `segments.txt` and `audio/`",
        mls_lists,
        read_mls,
        ("segments.txt",),
    ),
    Layout("NeMo: `*.json` of lines with `audio_filepath, duration, text`", _nemo_lists, read_nemo),
)
OTHER_LAYOUTS = (
    "LibriSpeech: audio with `*.trans.txt` beside it",
    "Hugging Face: `*.parquet` with a column of sound {bytes, path}",
    "a manifest `manifest.parquet`, `.tsv` or `.jsonl`",
    "WebDataset: `.tar`",
)
