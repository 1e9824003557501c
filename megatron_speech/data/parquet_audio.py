"""Parquet with sound in its rows, as Hugging Face's datasets are: read where it is, page by page.

A column of sound is a struct {bytes, path}. Rows are listed without it; sound is read row after
row, never more than some pages of it, however large file and row groups are. Imports no torch.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import AudioError, DataError
from ..io.parquet import open_parquet, read_batches, require_columns
from ..io.rejected import Rejected
from ..io.remote import RemoteFile, find_remote, is_remote
from .list_files import Row, as_text, made_of_rows, rows_of
from .manifest import distinct, seconds
from .recording import Recording

_FIELDS = {
    "text": ("text", "sentence", "transcription", "transcript", "normalized_text", "raw_text"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "language": ("language", "lang", "locale"),
    "license": ("license", "licence"),
    "consent": ("consent",),
}
"""Names under which data sets tell what we know under ours; the first that there is."""
_LENGTHS = ("duration_s", "duration")
_ROWS_AT_A_TIME = 1 << 14
_BYTES_AT_A_TIME = 8 << 20
_MOST_ROWS_AT_A_TIME = 64
_MOST_OPEN = 16
_BATCHES_KEPT = 2


def audio_column(schema: pa.Schema) -> str | None:
    """The column {bytes, path} of a schema, of several `audio` or the first; None without one."""
    found = [
        field.name
        for field in schema
        if pa.types.is_struct(field.type)
        and {"bytes", "path"} <= {part.name for part in field.type}
        and _is_bytes(field.type.field("bytes").type)
    ]
    return "audio" if "audio" in found else next(iter(found), None)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def holds_audio(path: Path) -> bool:
    """Whether a Parquet file has a column of sound; not, if it cannot be read."""
    with suppress(DataError):
        return audio_column(open_parquet(path).schema_arrow) is not None
    return False


@dataclass(frozen=True)
class ParquetAudio:
    """A Parquet file, on a disk or behind a URL, whose rows hold sound."""

    path: Path | RemoteFile
    name: str
    """A row's id is `<name>:<key>`: its `id`, else its sound's file name, else its number."""

    def read(self) -> tuple[list[Recording], list[Rejected]]:
        """The recordings in the file, in its order, and what cannot be used; no sound is read."""
        rejected: list[Rejected] = []
        try:
            return list(distinct(self._recordings(_open(str(self.path))), rejected)), rejected
        except DataError as error:
            return [], [*rejected, Rejected(self.name, "unreadable_parquet", str(error))]

    def _recordings(self, file: pq.ParquetFile) -> Iterator[Recording | Rejected]:
        schema = file.schema_arrow
        audio = audio_column(schema)
        if audio is None:
            raise DataError(
                f"{self.path} has no column of sound {{bytes, path}}; it has "
                f"{', '.join(sorted(schema.names))}"
            )
        columns = {ours: _first(schema, names) for ours, names in _FIELDS.items()}
        columns |= {"id": _first(schema, ("id",)), "duration_s": _first(schema, _LENGTHS)}
        names = [name for name in columns.values() if name is not None]
        require_columns(str(self.path), schema.names, [audio, *names])
        for group in range(file.num_row_groups):
            first = 0
            make = partial(self._recording, columns, f"{audio}.path", group)
            wanted = [*names, f"{audio}.path"]
            for batch in read_batches(file, str(self.path), _ROWS_AT_A_TIME, wanted, [group]):
                table = pa.Table.from_batches([batch]).flatten()
                yield from self._named(made_of_rows(rows_of(table, first), make, "invalid_row"))
                first += table.num_rows

    def _named(self, found: Iterator[Recording | Rejected]) -> Iterator[Recording | Rejected]:
        """What is set aside by its row's number is called after the file, too."""
        for item in found:
            if isinstance(item, Rejected) and not item.id.startswith(f"{self.name}:"):
                item = Rejected(f"{self.name}:{item.id}", item.reason, item.detail)
            yield item

    def _recording(
        self, columns: dict[str, str | None], path_column: str, group: int, row: Row
    ) -> Recording | Rejected:
        values = {ours: row.values.get(name) for ours, name in columns.items() if name}
        file = as_text(row.values[path_column])
        key = as_text(values.pop("id", None)) or os.path.splitext(os.path.basename(file))[0]
        name = f"{self.name}:{key or f'{group}-{row.number}'}"
        length = values.pop("duration_s", None)
        duration_s = seconds(length or 0.0)
        if duration_s is None:
            return Rejected(name, "bad_duration", f"{length!r}, expected seconds"[:200])
        known: dict[str, Any] = {ours: as_text(value).strip() for ours, value in values.items()}
        return Recording(
            id=name,
            path=str(self.path),
            duration_s=duration_s,
            parquet_place=(group, row.number),
            **known,
        )


def _first(schema: pa.Schema, names: tuple[str, ...]) -> str | None:
    """The first of the columns that is there and holds no times or structs."""
    for name in names:
        kind = schema.field(name).type if schema.names.count(name) == 1 else None
        if kind is not None and not (pa.types.is_temporal(kind) or pa.types.is_nested(kind)):
            return name
    return None


def _open(path: str) -> pq.ParquetFile:
    source: str | BinaryIO = find_remote(path)[0].open() if is_remote(path) else path
    return open_parquet(source, path, page_by_page=True)


@dataclass(eq=False)
class _Cursor:
    """Where the reading of a file's sound is: rows asked for in turn cost one pass over it."""

    path: str
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._file = _open(self.path)
        self._column = audio_column(self._file.schema_arrow)
        self._group, self._next = -1, 0
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._kept: OrderedDict[int, pa.RecordBatch] = OrderedDict()

    def read(self, group: int, row: int) -> tuple[bytes | None, str | None]:
        """Bytes and path of a row of a row group."""
        with self.lock:
            if group != self._group or row < min(self._kept, default=self._next):
                self._begin(group)
            while row >= self._next:
                batch = next(self._batches, None)
                if batch is None:
                    raise DataError(f"{self.path} has no row {row} in row group {group}")
                self._kept[self._next] = batch
                self._next += batch.num_rows
                if len(self._kept) > _BATCHES_KEPT:
                    self._kept.popitem(last=False)
                    pa.default_memory_pool().release_unused()  # pages are large
            first = max(start for start in self._kept if start <= row)
            sound = self._kept[first].column(0)[row - first]
            return (None, None) if not sound.is_valid else (sound["bytes"].as_py(), _path_of(sound))

    def _begin(self, group: int) -> None:
        self._kept.clear()
        metadata = self._file.metadata.row_group(group)
        columns = [metadata.column(n) for n in range(metadata.num_columns)]
        size = sum(
            column.total_uncompressed_size
            for column in columns
            if column.path_in_schema == f"{self._column}.bytes"
        )
        rows = _BYTES_AT_A_TIME * metadata.num_rows // max(size, 1)
        rows = max(min(rows, _MOST_ROWS_AT_A_TIME), 1)
        wanted = [f"{self._column}.bytes", f"{self._column}.path"]
        self._batches = read_batches(self._file, self.path, rows, wanted, [group])
        self._group, self._next = group, 0


def _path_of(sound: Any) -> str | None:
    try:
        return sound["path"].as_py()
    except UnicodeDecodeError:
        return None


_cursors: OrderedDict[tuple[str, int], _Cursor] = OrderedDict()
_opening = threading.Lock()


def _cursor(path: str) -> _Cursor:
    """The one of this process; those that were not asked for lately are let go."""
    key = (path, os.getpid())
    with _opening:
        cursor = _cursors.pop(key, None) or _Cursor(path)
        _cursors[key] = cursor
        if len(_cursors) > _MOST_OPEN:
            _cursors.popitem(last=False)
    return cursor


def read_sound(recording: Recording) -> bytes | Path:
    """The bytes of a recording with a `parquet_place`, or the file that its row names.

    Raises:
        AudioError: the row holds neither (`no_audio`), or the file is damaged (`unreadable`).
    """
    assert recording.parquet_place is not None
    try:
        content, path = _cursor(recording.path).read(*recording.parquet_place)
    except DataError as error:
        raise AudioError(str(error), reason="unreadable") from None
    if content is not None:
        return content
    if not path or is_remote(recording.path):
        raise AudioError(f"recording {recording.id}: its row holds no sound", reason="no_audio")
    return Path(recording.path).parent / path
