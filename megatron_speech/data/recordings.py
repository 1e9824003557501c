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
from ..files import fingerprint_of, fingerprint_of_files
from ..json_lines import is_unicode
from ..rejected import Rejected
from .cuts import is_list_of_cuts, read_cuts
from .manifest import JSONL_SUFFIXES, manifest_rows, nothing_usable
from .recording import AUDIO_SUFFIXES, Recording
from .recording_table import RecordingTable, joined, manifest_table, recording_of, table_of
from .tars import TarFile


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
        if path.is_dir():
            found, more = _scan(path)
            tables.append(table_of(found, rejected))
            tars += more
            prints += [_fingerprint(item) for item in found]
            prints += [f"{tar.name} {os.path.getsize(tar.path)}" for tar in more]
        elif path.name.endswith(".tar"):
            tars.append(TarFile(path=_existing(path), name=path.stem))
            prints.append(f"{path.stem} {os.path.getsize(path)}")
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
    size = os.path.getsize(item.path) if isinstance(item, Recording) else item.reason
    return f"{item.id} {size}"


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    return path


def _read_list(path: Path, audio_root: Path | None, rejected: list[Rejected]) -> pa.Table:
    if path.name.endswith(JSONL_SUFFIXES) and is_list_of_cuts(path):
        return table_of(read_cuts(path, audio_root or path.parent), rejected)
    if not path.name.endswith((".parquet", ".tsv", *JSONL_SUFFIXES)):
        raise DataError(
            f"{path} is no list of recordings; expected a manifest (.parquet, .tsv, .jsonl), "
            "lhotse cuts (.jsonl.gz), WebDataset tars (.tar, not compressed), or a folder"
        )
    bad: list[Rejected] = []
    if path.suffix == ".parquet":
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
    files = sorted(_files_below(folder))
    names = set(files)
    recordings: list[Recording | Rejected] = []
    tars: list[TarFile] = []
    for name in files:
        stem, suffix = os.path.splitext(name)
        if suffix == ".tar":
            tars.append(TarFile(path=folder / name, name=stem))
        elif suffix.lower() in AUDIO_SUFFIXES:
            text = folder / f"{stem}.txt" if f"{stem}.txt" in names else None
            recordings.append(_from_file(stem, folder / name, text))
    if not recordings and not tars:
        raise DataError(
            f"{folder} holds neither .tar files nor audio ({', '.join(sorted(AUDIO_SUFFIXES))})"
        )
    return recordings, tars


def _from_file(name: str, path: Path, text: Path | None) -> Recording | Rejected:
    if not is_unicode(name):
        return Rejected(ascii(name), "invalid_utf8", "its file name is no UTF-8")
    try:
        said = "" if text is None else text.read_text("utf-8").strip()
    except UnicodeDecodeError as error:
        return Rejected(name, "bad_text", f"{text}: {error}")
    return Recording(id=name, path=str(path), text=said)


def _files_below(folder: Path) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
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
