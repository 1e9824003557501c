"""Rows of Parquet, TSV and JSON lines, one by one: a bad row does not cost the others.

What a row of any list may raise is caught in `made_of_rows`, and nowhere else.
"""

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import DataError
from ..io.json_lines import is_unicode, parse_object
from ..io.parquet import open_parquet, read_batches, require_columns
from ..io.rejected import Rejected

_ROWS_AT_A_TIME = 1 << 17
_BAD_ROW = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Row:
    """One row: its number from 0 (empty lines do not count) and its values by column."""

    number: int
    values: dict[str, Any]


def made_of_rows[Made](
    rows: Iterable[Row | Rejected], make: Callable[[Row], Made | Rejected], reason: str
) -> Iterator[Made | Rejected]:
    """What `make` makes of each row; one that it cannot use is set aside for `reason`."""
    for row in rows:
        if isinstance(row, Rejected):
            yield row
            continue
        try:
            yield make(row)
        except _BAD_ROW as error:
            name = row.values.get("id")
            name = name if name and isinstance(name, str) else f"row {row.number}"
            kind = "invalid_utf8" if isinstance(error, UnicodeError) else reason
            yield Rejected(name, kind, f"{type(error).__name__}: {error}"[:200])


def as_text(value: Any) -> str:
    """A text, name or number of a row as text, "" for None.

    Raises:
        ValueError: neither, or half a surrogate pair, or bytes that are no UTF-8.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected text, got {type(value).__name__}: {value!r}"[:200])
    text = str(value)
    if not is_unicode(text):
        raise UnicodeError(f"half a surrogate pair in {text!r}"[:200])
    return text


def read_parquet_rows(
    path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[Row | Rejected]:
    """Rows of a Parquet file; one with text that is not UTF-8 is set aside.

    Raises:
        DataError: the file is missing or damaged, or lacks a needed column.
    """
    first = 0
    for table in read_parquet_columns(path, needed, optional):
        yield from rows_of(table, first)
        first += table.num_rows


def rows_of(table: pa.Table, first: int) -> Iterator[Row | Rejected]:
    """Rows of a table, numbered from `first`; one with text that is not UTF-8 is set aside."""
    columns = {name: _values(table[name]) for name in table.column_names}
    for number, values in enumerate(zip(*columns.values(), strict=True), start=first):
        found = dict(zip(columns, values, strict=True))
        broken = [name for name, value in found.items() if isinstance(value, _Broken)]
        if broken:
            detail = f"column {', '.join(broken)} holds text that is not valid UTF-8"
            yield Rejected(f"row {number}", "invalid_utf8", detail)
        else:
            yield Row(number, found)


def read_parquet_columns(
    path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[pa.Table]:
    """Columns of a Parquet file, some rows at a time; text may hold what is not UTF-8.

    Raises:
        DataError: the file is missing or damaged, lacks a needed column, or has times in one.
    """
    file = open_parquet(path)
    names = file.schema_arrow.names
    wanted = [*needed, *(name for name in optional if name in names)]
    require_columns(path, names, wanted)
    for name in wanted:
        kind = file.schema_arrow.field(name).type
        if pa.types.is_temporal(kind):  # not all of these have a value in Python
            raise DataError(f"{path}: column {name!r} holds {kind}, expected text or numbers")
    for batch in read_batches(file, path, _ROWS_AT_A_TIME, wanted):
        yield pa.Table.from_batches([batch]).select(wanted)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds strings, in whichever of Arrow's ways."""
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)


class _Broken:
    """Stands for a string that is no UTF-8."""


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not is_text(column.type):
        return column.to_pylist()
    raw = column.cast(pa.large_binary()).to_pylist()
    return [None if value is None else _decoded(value) for value in raw]


def _decoded(value: bytes) -> str | _Broken:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return _Broken()


def read_tsv_rows(path: Path, needed: Sequence[str]) -> Iterator[Row | Rejected]:
    """Rows of tab-separated UTF-8 below a header.

    Raises:
        DataError: the file cannot be read, its header is not UTF-8 or lacks a column.
    """
    lines = list_bytes(path).removeprefix(codecs.BOM_UTF8).split(b"\n")
    try:
        header = _fields(lines[0].decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line 1: not valid UTF-8 ({error.reason} at byte {error.start}); convert the "
            "file to UTF-8"
        ) from None
    require_columns(path, header, list(dict.fromkeys([*needed, *header])))
    number = -1
    for line_number, line in enumerate(lines[1:], start=2):
        if not line.strip(b"\r"):
            continue
        number += 1
        try:
            values = _fields(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield Rejected(f"line {line_number}", "invalid_utf8", str(error))
            continue
        if len(values) != len(header):
            detail = f"{len(values)} fields, expected {len(header)} ({', '.join(header)})"
            yield Rejected(f"line {line_number}", "wrong_number_of_fields", detail)
        else:
            yield Row(number, dict(zip(header, values, strict=True)))


def _fields(line: str) -> list[str]:
    return line.removesuffix("\r").split("\t") if line else []


def read_jsonl_rows(path: Path, text_column: str | None) -> Iterator[Row | Rejected]:
    """Objects of JSON lines with at least the field `text_column`, if one is named.

    Raises:
        DataError: the file cannot be read, or no object has such a field.
    """
    if text_column is None:
        return _parse_lines(path, None)
    rows = list(_parse_lines(path, text_column))
    lacking = [row for row in rows if isinstance(row, Rejected) and row.reason == "no_such_field"]
    if lacking and len(lacking) == len(rows):
        raise DataError(f"{path} has no column {text_column!r}: {lacking[0].detail}")
    return iter(rows)


def _parse_lines(path: Path, text_column: str | None) -> Iterator[Row | Rejected]:
    number = -1
    for line_number, line in enumerate(list_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        number, name = number + 1, f"line {line_number}"
        record = parse_object(name, line)
        if isinstance(record, Rejected):
            yield record
        elif text_column is not None and text_column not in record:
            detail = f"no field {text_column!r}; it has {', '.join(sorted(record))[:200]}"
            yield Rejected(name, "no_such_field", detail)
        else:
            yield Row(number, record)


def keyed_lines(path: Path) -> Iterator[tuple[str, str] | Rejected]:
    """Lines `key rest` of UTF-8, or why one cannot be used; the rest may be empty.

    Raises:
        DataError: the file cannot be read.
    """
    for number, line in enumerate(list_bytes(path).split(b"\n"), start=1):
        try:
            words = line.decode("utf-8").split(maxsplit=1)
        except UnicodeDecodeError as error:
            yield Rejected(f"{path.name} line {number}", "invalid_utf8", str(error))
            continue
        if words:
            yield words[0], words[1].strip() if len(words) > 1 else ""


def keyed_table(path: Path, bad: list[Rejected]) -> dict[str, str]:
    """What `keyed_lines` finds; of a key that comes twice, the first."""
    found: dict[str, str] = {}
    for item in keyed_lines(path):
        if isinstance(item, Rejected):
            bad.append(item)
        elif item[0] in found:
            bad.append(Rejected(item[0], "duplicate_id", f"twice in {path}"))
        else:
            found[item[0]] = item[1]
    return found


def list_bytes(path: Path) -> bytes:
    """The whole file, decompressed by its suffix."""
    try:
        if path.suffix.lower() == ".gz":
            with gzip.open(path) as stream:
                return stream.read()
        if path.suffix.lower() == ".zst":
            with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
                return stream.read()
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
