"""What a bulk job reads, as one list: manifests, corpora, folders, tars, Parquet, lhotse cuts.

Recordings are not opened here: one that cannot be read is for its reader to report. Imports no
torch.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError
from ..io.files import fingerprint_of, fingerprint_of_files
from ..io.parquet import advice_on_csv
from ..io.rejected import Rejected
from ..io.remote import RemoteFile, find_remote, is_remote
from .audio_folders import Corpus, scan
from .corpus_layouts import is_common_voice, is_nemo_manifest, read_common_voice, read_nemo
from .cuts import is_list_of_cuts, read_cuts
from .manifest import (
    JSONL_SUFFIXES,
    ManifestRow,
    manifest_rows,
    nothing_usable,
    read_manifest,
)
from .parquet_audio import ParquetAudio, holds_audio
from .recording import Recording
from .recording_table import RecordingTable, joined, manifest_table, recording_of, table_of
from .tars import TarFile


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """All that some inputs name: recordings known one by one, and archives that are read later."""

    listed: RecordingTable
    """Recordings of manifests, corpora, cuts and folders, ids distinct."""
    archives: list[TarFile | ParquetAudio]
    """WebDataset tars and Parquet with sound; what they hold shows when they are read."""
    rejected: list[Rejected] = field(default_factory=list)
    """Entries of the lists that cannot be used."""
    fingerprint: str
    """Identifies lists and texts by content, sound and archives by names and sizes."""

    def shards(self, size: int) -> int:
        """Shards of at most `size` listed recordings, and then one for each archive."""
        return self.listed_shards(size) + len(self.archives)

    def listed_shards(self, size: int) -> int:
        """Those of listed recordings alone."""
        return -(-len(self.listed) // size)

    def read_shard(self, number: int, size: int) -> tuple[list[Recording], list[Rejected]]:
        """The recordings of a shard, and what its archive holds that cannot be used."""
        first = number * size
        if first < len(self.listed):
            return self.listed[first : first + size], []
        return self.archives[number - self.listed_shards(size)].read()


def find_recordings(inputs: Sequence[str | Path], audio_root: Path | None = None) -> Recordings:
    """Read what `inputs` name, in their order: files, folders, and URLs of Parquet with sound.

    A relative path in a list starts from `audio_root`, else from the list's own folder.

    Raises:
        DataError: an input that is missing or of no known kind, or nothing usable in all of them.
        ConfigError: the package that opens such a URL is missing.
    """
    reading = _Reading(audio_root)
    for named in inputs:
        path = Path(named)
        if is_remote(named):
            reading.add_remote(str(named))
        elif os.path.isdir(path):
            reading.add_folder(path)
        elif path.name.lower().endswith(".tar"):
            reading.add_archive(TarFile(path=_existing(path), name=_written(path.stem)))
        elif path.name.lower().endswith(".parquet") and holds_audio(path):
            reading.add_archive(ParquetAudio(path, _written(path.stem)))
        else:
            reading.add_list(_existing(path))
    _check_archive_names(reading.archives)
    usable = joined(reading.tables, reading.rejected)
    if not usable and not reading.archives:
        raise DataError(f"no recordings found in {', '.join(map(str, inputs))}")
    return Recordings(
        listed=usable,
        archives=reading.archives,
        rejected=reading.rejected,
        fingerprint=fingerprint_of(*reading.prints, str(audio_root or "")),
    )


def read_rows(path: str | Path, rejected: list[Rejected] | None = None) -> list[ManifestRow]:
    """What `find_recordings` finds in one input as rows to train on; archives are listed, too.

    Rows that cannot be used are appended to `rejected`; without that list those of a manifest are
    counted on stderr.

    Raises:
        DataError: as `find_recordings`.
    """
    is_manifest = not is_remote(path) and not os.path.isdir(path)
    if is_manifest and _kind_of_list(Path(path)) == "manifest":
        return read_manifest(path, rejected)
    found = find_recordings([path])
    recordings = list(found.listed)
    bad = found.rejected
    for archive in found.archives:
        more, set_aside = archive.read()
        recordings += more
        bad += set_aside
    if rejected is not None:
        rejected += bad
    return [RecordingRow.of(recording) for recording in recordings]


@dataclass(frozen=True, kw_only=True)
class RecordingRow(ManifestRow):
    """A row whose sound is part of a file, of a tar or of Parquet."""

    recording: Recording

    @classmethod
    def of(cls, recording: Recording) -> ManifestRow:
        """A row of a manifest where that is all there is to say."""
        known = {
            "id": recording.id,
            "path": Path(recording.path),
            "text": recording.text,
            "speaker": recording.speaker,
            "language": recording.language,
            "duration_s": recording.length_s or recording.duration_s,
            "license": recording.license,
            "consent": recording.consent,
        }
        places = (recording.length_s, recording.channels, recording.tar_place)
        if recording.start_s or any(p is not None for p in (*places, recording.parquet_place)):
            return cls(recording=recording, **known)
        return ManifestRow(**known)


@dataclass
class _Reading:
    """What was found so far."""

    audio_root: Path | None
    tables: list[pa.Table] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    archives: list[TarFile | ParquetAudio] = field(default_factory=list)
    prints: list[str] = field(default_factory=list)

    def add_folder(self, folder: Path) -> None:
        found = scan(folder)
        self.tables.append(table_of(found.items, self.rejected))
        self.prints += [_fingerprint(item) for item in found.items]
        for corpus in found.corpora:
            self._add_corpus(corpus)
        for archive in found.archives:
            self.add_archive(archive)

    def _add_corpus(self, corpus: Corpus) -> None:
        path, bad = corpus.path, list[Rejected]()
        if corpus.layout is None:
            table = _read_list(path, self.audio_root, bad)
        else:
            table = table_of(corpus.layout.read(path.parent, path.name, self.audio_root), bad)
        if corpus.place:
            place, nothing = (pa.scalar(part, pa.large_string()) for part in (corpus.place, ""))
            ids = pc.binary_join_element_wise(place, table["id"], nothing)
            table = table.set_column(table.schema.get_field_index("id"), "id", ids)
            bad = [Rejected(corpus.place + item.id, item.reason, item.detail) for item in bad]
        self.tables.append(table)
        self.rejected += bad
        beside = corpus.layout.tables if corpus.layout else ()
        files = [path, *(path.parent / name for name in beside)]
        self.prints += [fingerprint_of_files(file) for file in files if file.is_file()]

    def add_remote(self, url: str) -> None:
        found = [file for file in find_remote(url) if file.name.lower().endswith(".parquet")]
        if not found:
            raise DataError(f"{url} names no .parquet files; of other kinds give local ones")
        for file in found:
            self.add_archive(ParquetAudio(file, file.name.removesuffix(".parquet")))

    def add_archive(self, archive: TarFile | ParquetAudio) -> None:
        self.archives.append(archive)
        file = archive.path
        known = f"{file.size} {file.version}" if isinstance(file, RemoteFile) else _size(file)
        self.prints.append(f"{archive.name} {known}")

    def add_list(self, path: Path) -> None:
        self.tables.append(_read_list(path, self.audio_root, self.rejected))
        self.prints.append(fingerprint_of_files(path))


def _fingerprint(item: Recording | Rejected) -> str:
    if isinstance(item, Rejected):
        return f"{item.id} {item.reason}"
    known = (item.id, str(_size(item.path)), item.speaker, item.text)
    return " ".join(part for part in known if part)


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


def _kind_of_list(path: Path) -> str:
    """`manifest`, `cuts`, `nemo`, `common voice` or `parquet` with sound; "" for no list."""
    name = path.name.lower()
    if name.endswith((".json", ".jsonl")) and is_nemo_manifest(path):
        return "nemo"
    if name.endswith(JSONL_SUFFIXES):
        return "cuts" if is_list_of_cuts(path) else "manifest"
    if name.endswith(".tsv"):
        return "common voice" if is_common_voice(path) else "manifest"
    if name.endswith(".parquet"):
        return "parquet" if holds_audio(path) else "manifest"
    return ""


def _read_list(path: Path, audio_root: Path | None, rejected: list[Rejected]) -> pa.Table:
    kind = _kind_of_list(path)
    if kind == "cuts":
        return table_of(read_cuts(path, audio_root or path.parent), rejected)
    if not kind:
        raise DataError(
            f"{path} is no list of recordings; expected a manifest (.parquet, .tsv, .jsonl), "
            "lhotse cuts (.jsonl.gz), a NeMo manifest (.json), a TSV of Common Voice, Parquet with "
            f"sound, WebDataset tars (.tar, not compressed), or a folder{advice_on_csv(path)}"
        )
    bad: list[Rejected] = []
    if kind == "nemo":
        table = table_of(read_nemo(path.parent, path.name, audio_root), bad)
    elif kind == "common voice":
        table = table_of(read_common_voice(path.parent, path.name, audio_root), bad)
    elif path.name.lower().endswith(".parquet"):
        table = manifest_table(path, audio_root, bad)
    else:
        rows = (recording_of(row, path.parent, audio_root) for row in manifest_rows(path))
        table = table_of(rows, bad)
    if not table.num_rows:
        raise nothing_usable(path, "manifest", bad)
    rejected += bad
    return table


def _check_archive_names(archives: Iterable[TarFile | ParquetAudio]) -> None:
    """Ids begin with the archive's name: two of one name would give the same ids twice."""
    seen: dict[str, object] = {}
    for archive in archives:
        if archive.name in seen:
            raise DataError(
                f"{seen[archive.name]} and {archive.path} have the same name, from which ids are "
                "made; name the folder above them as --input, or rename one"
            )
        seen[archive.name] = archive.path
