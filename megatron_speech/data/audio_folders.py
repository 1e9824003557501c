"""Folders of recordings: corpora as they are published, audio files, tars, Parquet with sound.

Nothing is opened but the lists of corpora and the texts beside recordings. Imports no torch.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError
from ..io.json_lines import is_unicode
from ..io.rejected import Rejected
from .corpus_layouts import LAYOUTS, OTHER_LAYOUTS, Layout, layout_of, librispeech_texts
from .parquet_audio import ParquetAudio, holds_audio
from .recording import AUDIO_SUFFIXES, Recording
from .tars import TarFile
from .texts import read_text

_MANIFESTS = ("manifest.parquet", "manifest.tsv", "manifest.jsonl")
_TRANSCRIPTS = ".trans.txt"


@dataclass(frozen=True)
class Corpus:
    """A list of recordings that was found in a folder."""

    place: str
    """Its folder in the one that was searched, with a slash behind it: its ids begin so."""
    path: Path
    layout: Layout | None
    """None for a manifest."""


@dataclass
class FolderContents:
    """What is in a folder and below it."""

    items: list[Recording | Rejected] = field(default_factory=list)
    """Audio files in the order of their names, and what cannot be used."""
    corpora: list[Corpus] = field(default_factory=list)
    archives: list[TarFile | ParquetAudio] = field(default_factory=list)


def scan(folder: Path) -> FolderContents:
    """Look through a folder, but not into a corpus in it: its lists say what it holds.

    An audio file's id is its path in the folder without suffix; its text is in a .txt beside it, or
    under its name in a `*.trans.txt` beside it.

    Raises:
        DataError: there is nothing of the kind.
    """
    found = FolderContents()
    names = sorted(_files_below(folder, found))
    named = [(name, *os.path.splitext(name)) for name in names]
    texts: dict[str, list[str]] = {}
    for name, stem, suffix in named:
        if suffix.lower() == ".txt" and not name.endswith(_TRANSCRIPTS):
            texts.setdefault(stem, []).append(name)
    audio = {stem for _, stem, suffix in named if suffix.lower() in AUDIO_SUFFIXES}
    said = _transcripts(folder, names, audio, found)
    for name, stem, suffix in named:
        suffix = suffix.lower()
        if not is_unicode(name):
            if suffix in (*AUDIO_SUFFIXES, ".tar"):
                found.items.append(Rejected(stem, "invalid_utf8", "its file name is no UTF-8"))
        elif suffix == ".tar":
            if os.path.isfile(folder / name):
                found.archives.append(TarFile(path=folder / name, name=stem))
            else:
                found.items.append(Rejected(name, "unreadable_tar", "it is no file"))
        elif suffix == ".parquet" and holds_audio(folder / name):
            found.archives.append(ParquetAudio(folder / name, stem))
        elif suffix in AUDIO_SUFFIXES:
            beside = [folder / text for text in texts.get(stem, ())]
            found.items.append(_from_file(stem, folder / name, beside, said.get(stem, ("", ""))))
        elif suffix == ".txt" and stem in texts and stem not in audio:
            detail = "no recording is called like this text"
            found.items.append(Rejected(name, "no_audio", detail))
    if not (found.archives or found.corpora or audio):
        layouts = "; ".join((*(layout.looks_like for layout in LAYOUTS), *OTHER_LAYOUTS))
        raise DataError(
            f"{folder} holds neither .tar files nor audio ({', '.join(sorted(AUDIO_SUFFIXES))}), "
            f"nor a corpus in a layout that is known ({layouts})"
        )
    return found


def _transcripts(
    folder: Path, names: Sequence[str], audio: set[str], found: FolderContents
) -> dict[str, tuple[str, str]]:
    """Text and speaker of the recordings that the `*.trans.txt` name."""
    said: dict[str, tuple[str, str]] = {}
    for name in names:
        if not name.endswith(_TRANSCRIPTS):
            continue
        place = os.path.dirname(name)
        for item in librispeech_texts(folder / name, name):
            if isinstance(item, Rejected):
                found.items.append(item)
                continue
            key, text, speaker = item
            stem = os.path.join(place, key)
            if stem in audio:
                said[stem] = (text, speaker)
            else:
                found.items.append(Rejected(stem, "no_audio", f"{name} has it, no file does"))
    return said


def _from_file(
    name: str, path: Path, texts: Sequence[Path], listed: tuple[str, str]
) -> Recording | Rejected:
    try:
        if len(texts) > 1:
            raise ValueError(f"two texts: {', '.join(text.name for text in texts)}")
        said = read_text(texts[0]) if texts else listed[0]
    except (OSError, ValueError) as error:
        return Rejected(name, "bad_text", f"{texts[0]}: {error}")
    return Recording(id=name, path=str(path), text=said, speaker=listed[1])


def _files_below(folder: Path, found: FolderContents) -> list[str]:
    """Names of files, hidden ones left out; corpora, and folders that are not looked into, go to
    `found`."""

    def refuse(error: OSError) -> None:
        place = os.path.relpath(error.filename, folder)
        found.items.append(Rejected(place, "unreadable_folder", str(error)))

    files: list[str] = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in names if not name.startswith("."))
        inside = os.path.relpath(place, folder)
        prefix = "" if inside == "." else f"{inside}/"
        corpora = _corpora(Path(place), prefix, folders, names)
        if corpora:
            found.corpora += corpora
            folders.clear()
            continue
        for name in folders:
            if os.path.islink(os.path.join(place, name)):
                detail = "links to folders are not followed; name it"
                found.items.append(Rejected(prefix + name, "linked_folder", detail))
        files += [prefix + name for name in names]
    return files


def _corpora(
    folder: Path, prefix: str, folders: Sequence[str], names: Sequence[str]
) -> list[Corpus]:
    manifest = next((name for name in _MANIFESTS if name in names), None)
    if manifest is not None and is_unicode(prefix):
        if manifest.endswith(".parquet") and holds_audio(folder / manifest):
            return []
        return [Corpus(prefix, folder / manifest, None)]
    found = layout_of(folder, folders, names) if is_unicode(prefix) else None
    if found is None:
        return []
    layout, lists = found
    return [Corpus(prefix, folder / name, layout) for name in lists]
