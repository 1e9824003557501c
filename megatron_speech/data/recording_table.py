"""Recordings as columns: tens of millions of them fit into memory. Imports no torch."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import reduce
from itertools import batched
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..io.rejected import Rejected
from .list_files import is_text, read_parquet_columns, rows_of
from .manifest import MANIFEST_COLUMNS, OPTIONAL_COLUMNS, ManifestRow, manifest_rows_of
from .recording import Recording

_TYPES = {
    "id": pa.large_string(),
    "path": pa.large_binary(),  # file names need not be text
    "text": pa.large_string(),
    "speaker": pa.large_string(),
    "language": pa.large_string(),
    "duration_s": pa.float64(),
    "start_s": pa.float64(),
    "length_s": pa.float64(),
    "channels": pa.list_(pa.int32()),
    "tar_place": pa.list_(pa.int64()),
    "parquet_place": pa.list_(pa.int64()),
    "license": pa.large_string(),
    "consent": pa.large_string(),
}
_SCHEMA = pa.schema([(field.name, _TYPES[field.name]) for field in fields(Recording)])
_CHUNK = 1 << 16


class RecordingTable(Sequence[Recording]):
    """A list of recordings that makes each when it is asked for.

    Some 200 bytes each where names and texts are short, a fifth of what objects take.
    """

    def __init__(self, table: pa.Table):
        self._table = table

    def __len__(self) -> int:
        return self._table.num_rows

    @overload
    def __getitem__(self, place: int) -> Recording: ...

    @overload
    def __getitem__(self, place: slice) -> list[Recording]: ...

    def __getitem__(self, place: int | slice) -> Recording | list[Recording]:
        if isinstance(place, slice):
            first, end, step = place.indices(len(self))
            if step < 1:
                return [self[number] for number in range(first, end, step)]
            return _recordings(self._table.slice(first, max(end - first, 0)))[::step]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return _recordings(self._table.slice(place % len(self), 1))[0]

    def __iter__(self) -> Iterator[Recording]:
        for batch in self._table.to_batches(_CHUNK):
            yield from _recordings(pa.Table.from_batches([batch]))

    @property
    def known_durations(self) -> int:
        """How many of them have a length in their list."""
        return pc.sum(pc.greater(self._table["duration_s"], 0)).as_py() or 0

    @property
    def num_bytes(self) -> int:
        """Memory they take."""
        return self._table.nbytes

    @property
    def seconds(self) -> float:
        """Their lengths, as far as they are known."""
        return pc.sum(self._table["duration_s"]).as_py() or 0.0


def _recordings(table: pa.Table) -> list[Recording]:
    columns = {name: table[name].to_pylist() for name in table.column_names}
    columns["path"] = [os.fsdecode(path) for path in columns["path"]]
    for name in ("channels", "tar_place", "parquet_place"):
        columns[name] = [None if value is None else tuple(value) for value in columns[name]]
    rows = zip(*columns.values(), strict=True)
    return [Recording(**dict(zip(columns, row, strict=True))) for row in rows]


def joined(tables: Sequence[pa.Table], rejected: list[Rejected]) -> RecordingTable:
    """One list of several, of each id the first recording; the others go to `rejected`."""
    table = pa.concat_tables([_SCHEMA.empty_table(), *tables])
    ids = table["id"]
    if pc.count_distinct(ids).as_py() < len(ids):
        codes = ids.combine_chunks().dictionary_encode().indices.to_numpy()
        is_first = np.zeros(len(ids), dtype=bool)
        is_first[np.unique(codes, return_index=True)[1]] = True
        again = ids.filter(pa.array(~is_first)).to_pylist()
        rejected += [
            Rejected(name, "duplicate_id", "the first row of this id is used") for name in again
        ]
        table = table.filter(pa.array(is_first))
    return RecordingTable(table)


def table_of(found: Iterable[Recording | Rejected], rejected: list[Rejected]) -> pa.Table:
    """Columns of recordings that come one by one; what cannot be used goes to `rejected`."""

    def usable() -> Iterator[Recording]:
        for item in found:
            if isinstance(item, Rejected):
                rejected.append(item)
            else:
                yield item

    return pa.Table.from_batches([_batch(chunk) for chunk in batched(usable(), _CHUNK)], _SCHEMA)


def _batch(recordings: Sequence[Recording]) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {
        field.name: [getattr(recording, field.name) for recording in recordings]
        for field in _SCHEMA
    }
    columns["path"] = [os.fsencode(path) for path in columns["path"]]
    return pa.record_batch(columns, schema=_SCHEMA)


def manifest_table(path: Path, root: Path | None, rejected: list[Rejected]) -> pa.Table:
    """Columns of a Parquet manifest, whose rows are looked at one by one only where that is needed.

    Args:
        root: where relative paths start, and those below the manifest's folder, too; None is the
            manifest's folder.
        rejected: rows that cannot be used are added to it.

    Raises:
        DataError: the manifest is missing or damaged, or lacks a column.
    """
    parts, first, folder = [_SCHEMA.empty_table()], 0, path.parent
    for table in read_parquet_columns(path, MANIFEST_COLUMNS, OPTIONAL_COLUMNS):
        columns = {name: _as_usual(name, table[name]) for name in table.column_names}
        usual = all(column is not None for column in columns.values())
        if usual and not (root is not None and _is_roundabout(columns["path"])):
            good = _usable(columns)
            parts.append(_completed(pa.table(columns).filter(good), folder, root))
            bad = np.flatnonzero(~good.to_numpy()).tolist()
            rows = (row for n in bad for row in rows_of(table.slice(n, 1), first + n))
        else:
            rows = rows_of(table, first)
        found = manifest_rows_of(folder, rows)
        parts.append(table_of((recording_of(row, folder, root) for row in found), rejected))
        first += table.num_rows
    return pa.concat_tables(parts)


def recording_of(
    row: ManifestRow | Rejected, folder: Path, root: Path | None
) -> Recording | Rejected:
    """A row of a manifest in `folder`; its path starts from `root`, if it lies in the folder."""
    if isinstance(row, Rejected):
        return row
    path = row.path
    if root is not None and path.is_relative_to(folder):
        path = root / path.relative_to(folder)
    return Recording(
        id=row.id,
        path=str(path),
        text=row.text,
        speaker=row.speaker,
        language=row.language,
        duration_s=row.duration_s,
        license=row.license,
        consent=row.consent,
    )


def _is_roundabout(paths: pa.ChunkedArray) -> bool:
    """Whether paths hold // or ./, by which it is harder to see where they lie."""
    return pc.any(pc.match_substring_regex(paths, r"//|(^|/)\./")).as_py() or False


def _usable(columns: Mapping[str, pa.ChunkedArray]) -> pa.ChunkedArray:
    """Which rows `manifest_rows_of` does not reject."""
    given = [pc.not_equal(columns[name], "") for name in ("id", "path")]
    seconds = columns.get("duration_s")
    if seconds is not None:
        given += [pc.greater_equal(seconds, 0.0), pc.less(seconds, float("inf"))]
    return reduce(pc.and_, given)


def _completed(rows: pa.Table, folder: Path, root: Path | None) -> pa.Table:
    """With all columns of a recording."""
    found = {name: rows[name] for name in rows.column_names}
    found["path"] = _rooted(rows["path"], folder, root)
    zeros = pa.chunked_array([np.zeros(rows.num_rows)])
    unsaid = pa.chunked_array([pa.repeat("", rows.num_rows)])
    for field in _SCHEMA:
        if field.name in ("duration_s", "start_s"):
            found.setdefault(field.name, zeros)
        if field.name in ("license", "consent"):
            found.setdefault(field.name, unsaid)
        found.setdefault(field.name, pa.nulls(rows.num_rows, field.type))
    return pa.table(found).select(_SCHEMA.names).cast(_SCHEMA)


def _as_usual(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """The column in the type of all lists, without nulls; None if it needs a closer look."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if name == "duration_s":
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            return None
        return pc.fill_null(column.cast(pa.float64(), safe=False), 0.0)
    if name == "id" and pa.types.is_integer(kind):
        column = column.cast(pa.string())
    elif not (is_text(kind) or pa.types.is_null(kind)):
        return None
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return None
    return pc.fill_null(column.cast(pa.large_string()), "")


def _rooted(paths: pa.ChunkedArray, folder: Path, root: Path | None) -> pa.ChunkedArray:
    """Paths as bytes; relative ones, and those below `folder` if there is a root, start from it."""
    start = "" if str(folder) == "." else str(folder).rstrip("/") + "/"
    if root is not None and folder.is_absolute():
        inside = pc.starts_with(paths, start)
        below = pc.utf8_slice_codeunits(paths, len(start))
        paths = pc.if_else(inside, below, paths)
    is_absolute = pc.starts_with(paths, "/")
    begin = os.fsencode(start if root is None else f"{root}/")
    return pc.if_else(
        is_absolute,
        paths.cast(pa.large_binary()),
        pc.binary_join_element_wise(
            pa.scalar(begin, pa.large_binary()),
            paths.cast(pa.large_binary()),
            pa.scalar(b"", pa.large_binary()),
        ),
    )
