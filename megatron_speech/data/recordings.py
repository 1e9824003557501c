"""What a bulk job reads: manifests, folders of audio, WebDataset tars and lhotse cuts, as one list.

Recordings are not opened here: one that cannot be read is for its reader to report. Imports no
torch.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from ..errors import DataError
from ..io.files import fingerprint_of, fingerprint_of_files
from ..io.json_lines import is_unicode
from ..io.rejected import Rejected
from .cuts import is_list_of_cuts, read_cuts
from .manifest import JSONL_SUFFIXES, manifest_rows, nothing_usable
from .recording import AUDIO_SUFFIXES, Recording
from .recording_table import RecordingTable, joined, manifest_table, recording_of, table_of
from .tars import TarFile
from .texts import read_text


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """Everything some inputs name: recordings known one by one, and tars that are read later."""

    listed: RecordingTable
    """Recordings of manifests, cuts and folders, ids distinct."""
    tars: list[TarFile]
    """WebDataset tars; what they hold shows when they are read."""
    rejected: list[Rejected] = field(default_factory=list)
    """Entries of the lists that cannot be used."""
    fingerprint: str
    """Identifies the lists by content, folders and tars by names and sizes."""


def find_recordings(inputs: Sequence[Path], audio_root: Path | None = None) -> Recordings:
    """Read what `inputs` name, in their order.

    A relative path in a list starts from `audio_root`, else from the list's own folder.

    Raises:
        DataError: an input that is missing or of no known kind, or nothing usable in all of them.
    """
    tables: list[pa.Table] = []
    rejected: list[Rejected] = []
    tars: list[TarFile] = []
    prints: list[str] = []
    for path in inputs:
        if os.path.isdir(path):
            found, more = _scan(path)
            tables.append(table_of(found, rejected))
            tars += more
            prints += [_fingerprint(item) for item in found]
            prints += [f"{tar.name} {_size(tar.path)}" for tar in more]
        elif path.name.lower().endswith(".tar"):
            tars.append(TarFile(path=_existing(path), name=_written(path.stem)))
            prints.append(f"{_written(path.stem)} {_size(path)}")
        else:
            tables.append(_read_list(_existing(path), audio_root, rejected))
            prints.append(fingerprint_of_files(path))
    _check_tar_names(tars)
    usable = joined(tables, rejected)
    if not usable and not tars:
        raise DataError(f"no recordings found in {', '.join(map(str, inputs))}")
    prints.append(str(audio_root or ""))
    return Recordings(
        listed=usable, tars=tars, rejected=rejected, fingerprint=fingerprint_of(*prints)
    )


def _fingerprint(item: Recording | Rejected) -> str:
    return f"{item.id} {_size(item.path) if isinstance(item, Recording) else item.reason}"


def _size(path: str | Path) -> int:
    """Bytes of a file; -1 for what its reader will find missing."""
    try:
        return os.path.getsize(path)
    except OSError:
        return -1


def _written(name: str) -> str:
    """A name in UTF-8, with what is none in it spelled out."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _existing(path: Path) -> Path:
    if not os.path.isfile(path):
        raise DataError(f"{path} does not exist")
    return path


def _read_list(path: Path, audio_root: Path | None, rejected: list[Rejected]) -> pa.Table:
    name = path.name.lower()
    if name.endswith(JSONL_SUFFIXES) and is_list_of_cuts(path):
        return table_of(read_cuts(path, audio_root or path.parent), rejected)
    if not name.endswith((".parquet", ".tsv", *JSONL_SUFFIXES)):
        raise DataError(
            f"{path} is no list of recordings; expected a manifest (.parquet, .tsv, .jsonl), "
            "lhotse cuts (.jsonl.gz), WebDataset tars (.tar, not compressed), or a folder"
        )
    bad: list[Rejected] = []
    if name.endswith(".parquet"):
        table = manifest_table(path, audio_root, bad)
    else:
        rows = (recording_of(row, path.parent, audio_root) for row in manifest_rows(path))
        table = table_of(rows, bad)
    if not table.num_rows:
        raise nothing_usable(path, "manifest", bad)
    rejected += bad
    return table


def _scan(folder: Path) -> tuple[list[Recording | Rejected], list[TarFile]]:
    """Audio files and tars below a folder, in the order of their names.

    An audio file's id is its path in the folder without suffix; a .txt beside it holds its text.
    """
    items: list[Recording | Rejected] = []
    files = sorted(_files_below(folder, items))
    named = [(name, *os.path.splitext(name)) for name in files]
    texts: dict[str, list[str]] = {}
    for name, stem, suffix in named:
        if suffix.lower() == ".txt":
            texts.setdefault(stem, []).append(name)
    audio = {stem for _, stem, suffix in named if suffix.lower() in AUDIO_SUFFIXES}
    tars: list[TarFile] = []
    for name, stem, suffix in named:
        if not is_unicode(name):
            if suffix.lower() in (*AUDIO_SUFFIXES, ".tar"):
                items.append(Rejected(stem, "invalid_utf8", "its file name is no UTF-8"))
        elif suffix.lower() == ".tar":
            if os.path.isfile(folder / name):
                tars.append(TarFile(path=folder / name, name=stem))
            else:
                items.append(Rejected(name, "unreadable_tar", "it is no file"))
        elif suffix.lower() in AUDIO_SUFFIXES:
            items.append(_from_file(stem, folder / name, [folder / t for t in texts.get(stem, ())]))
        elif suffix.lower() == ".txt" and stem not in audio:
            items.append(Rejected(name, "no_audio", "no recording is called like this text"))
    if not tars and not any(isinstance(item, Recording) for item in items) and not audio:
        raise DataError(
            f"{folder} holds neither .tar files nor audio ({', '.join(sorted(AUDIO_SUFFIXES))})"
        )
    return items, tars


def _from_file(name: str, path: Path, texts: Sequence[Path]) -> Recording | Rejected:
    try:
        if len(texts) > 1:
            raise ValueError(f"two texts: {', '.join(text.name for text in texts)}")
        said = read_text(texts[0]) if texts else ""
    except (OSError, ValueError) as error:
        return Rejected(name, "bad_text", f"{texts[0]}: {error}")
    return Recording(id=name, path=str(path), text=said)


def _files_below(folder: Path, rejected: list[Recording | Rejected]) -> Iterator[str]:
    """Names of files, hidden ones left out; folders that are not looked into go to `rejected`."""

    def refuse(error: OSError) -> None:
        place = os.path.relpath(error.filename, folder)
        rejected.append(Rejected(place, "unreadable_folder", str(error)))

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if os.path.islink(os.path.join(place, name)):
                link = os.path.relpath(os.path.join(place, name), folder)
                rejected.append(
                    Rejected(link, "linked_folder", "links to folders are not followed; name it")
                )
        for name in names:
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(place, name), folder)


def _check_tar_names(tars: Iterable[TarFile]) -> None:
    """Ids begin with the tar's name: two of one name would give the same ids twice."""
    seen: dict[str, Path] = {}
    for tar in tars:
        if tar.name in seen:
            raise DataError(
                f"{seen[tar.name]} and {tar.path} have the same name, from which ids are made; "
                "name the folder above them as --input, or rename one"
            )
        seen[tar.name] = tar.path
