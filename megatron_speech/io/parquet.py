"""Parquet files that are whole, checked and named in errors. Imports no torch.

Every page is written with a checksum: a byte that changed on the way is found when it is read, and
does not become another text or another code.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from .files import atomic_path

_PAGES_BYTES = 1 << 20


def write_parquet(path: str | os.PathLike[str], table: pa.Table) -> None:
    """Write a table atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def parquet_writer(path: str | os.PathLike[str], schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of many batches; give it the path that `atomic_path` yields."""
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


def open_parquet(
    source: str | os.PathLike[str] | BinaryIO,
    path: str | os.PathLike[str] | None = None,
    *,
    page_by_page: bool = False,
) -> pq.ParquetFile:
    """Open a file for its schema, its counts and its rows; of a stream, errors name `path`.

    `page_by_page` never holds more of a column than some pages, where a row group may be the file.

    Raises:
        DataError: it does not exist or is no Parquet file.
    """
    path = path or str(source)
    try:
        buffer = _PAGES_BYTES if page_by_page else 0
        file = pq.ParquetFile(
            source,
            page_checksum_verification=True,
            buffer_size=buffer,
            pre_buffer=not page_by_page,
        )
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except pa.ArrowMemoryError as error:
        raise _too_large(path, error) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from None
    if _rows_in(file, range(file.num_row_groups)) != file.metadata.num_rows:
        raise _other_rows(path)
    return file


@contextmanager
def named_in_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make what pyarrow says about the pages of `path` a DataError that names the file."""
    try:
        yield
    except pa.ArrowMemoryError as error:
        raise _too_large(path, error) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is damaged: {str(error).strip()[:300]}; copy or make the file again"
        ) from None


def _too_large(path: str | os.PathLike[str], error: pa.ArrowMemoryError) -> DataError:
    return DataError(
        f"{path} takes more memory to read than there is ({error}); make room, write it in smaller "
        "row groups, or if it is small copy it again: its sizes are damaged"
    )


def _rows_in(file: pq.ParquetFile, groups: Sequence[int]) -> int:
    return sum(file.metadata.row_group(group).num_rows for group in groups)


def _other_rows(path: str | os.PathLike[str]) -> DataError:
    return DataError(
        f"{path} is damaged: it does not hold as many rows as it says; copy or make the file again"
    )


def require_columns(
    path: str | os.PathLike[str], names: Sequence[str], needed: Iterable[str]
) -> None:
    """Refuse a file with columns of these names that lacks a column, or has two of its name.

    Raises:
        DataError: names the columns.
    """
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(sorted(names)) or 'none'}"
        )
    twice = [name for name in needed if names.count(name) > 1]
    if twice:
        raise DataError(
            f"{path} has more than one column {', '.join(map(repr, twice))}; rename or drop one"
        )


def read_batches(
    file: pq.ParquetFile,
    path: str | os.PathLike[str],
    rows: int,
    columns: Sequence[str] | None = None,
    row_groups: Sequence[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Batches of at most `rows` rows of an open file.

    Raises:
        DataError: a page is damaged, or there are more or fewer rows than the file says.
    """
    groups = range(file.num_row_groups) if row_groups is None else row_groups
    left = _rows_in(file, groups)
    batches = file.iter_batches(
        rows,
        columns=None if columns is None else list(columns),
        row_groups=None if row_groups is None else list(row_groups),
    )
    while True:
        with named_in_errors(path):  # not around the yield: the reader's errors are its own
            batch = next(batches, None)
        left -= 0 if batch is None else batch.num_rows
        if left < 0 or (batch is None and left):
            raise _other_rows(path)
        if batch is None:
            return
        yield batch


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold text: any string, and bytes, as Impala marks it."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
        pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def text_as_bytes(column: pa.Array) -> list[bytes | None]:
    """Values of a column that `is_text`, undecoded: one bad value must not lose the rest."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.binary_view())
    return column.cast(pa.large_binary()).to_pylist()


def ids_of(column: pa.Array) -> list[Any]:
    """Ids as they are; one that is not UTF-8 gets its bytes spelled out and stays distinct."""
    if is_text(column.type):
        raw = text_as_bytes(column)
        return [
            None if value is None else value.decode("utf-8", "backslashreplace") for value in raw
        ]
    try:
        values = column.to_pylist()
    except (ValueError, OverflowError):  # nanoseconds and years that Python's dates do not have
        values = column.cast(pa.string()).to_pylist()
    return [
        value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
        for value in values
    ]


def read_parquet(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """The whole file, or some of its columns; strings that are not UTF-8 are an error too.

    Raises:
        DataError: the file is missing, lacks a column or has two of its name, or is damaged
            anywhere.
    """
    file = open_parquet(path)
    require_columns(path, file.schema_arrow.names, columns or ())
    with named_in_errors(path):
        table = file.read(columns=None if columns is None else list(columns))
        table.validate(full=True)
    if table.num_rows != _rows_in(file, range(file.num_row_groups)):
        raise _other_rows(path)
    return table


def advice_on_csv(path: str | os.PathLike[str]) -> str:
    """What to do with a list that is CSV, behind an error; nothing for any other."""
    path = Path(path)
    if path.suffix.lower() != ".csv":
        return ""
    return (
        '; of CSV make Parquet: python -c "import pyarrow.csv as c, pyarrow.parquet as p; '
        f"p.write_table(c.read_csv('{path}'), '{path.with_suffix('.parquet')}')\""
    )
