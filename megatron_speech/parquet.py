"""Parquet files that are whole, checked and named in errors. Imports no torch.

Every page is written with a checksum: a byte that changed on the way is found when it is read, and
does not become another text or another code.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import DataError
from .files import atomic_path


def write_parquet(path: str | os.PathLike[str], table: pa.Table) -> None:
    """Write a table atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def parquet_writer(path: str | os.PathLike[str], schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of many batches; give it the path that `atomic_path` yields."""
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


def open_parquet(
    source: str | os.PathLike[str] | BinaryIO, path: str | os.PathLike[str] | None = None
) -> pq.ParquetFile:
    """Open a file for its schema, its counts and its rows; of a stream, errors name `path`.

    Raises:
        DataError: it does not exist or is no Parquet file.
    """
    path = path or str(source)
    try:
        return pq.ParquetFile(source, page_checksum_verification=True)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from None


@contextmanager
def named_in_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make what pyarrow says about the pages of `path` a DataError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is damaged: {str(error).strip()[:300]}; copy or make the file again"
        ) from None


def read_batches(
    file: pq.ParquetFile,
    path: str | os.PathLike[str],
    rows: int,
    columns: Sequence[str] | None = None,
    row_groups: Sequence[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Batches of at most `rows` rows of an open file.

    Raises:
        DataError: a page is damaged.
    """
    batches = file.iter_batches(
        rows,
        columns=None if columns is None else list(columns),
        row_groups=None if row_groups is None else list(row_groups),
    )
    while True:
        with named_in_errors(path):  # not around the yield: the reader's errors are its own
            batch = next(batches, None)
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
        return column.to_pylist()
    except (ValueError, OverflowError):  # nanoseconds and years that Python's dates do not have
        return column.cast(pa.string()).to_pylist()


def read_parquet(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """The whole file, or some of its columns; strings that are not UTF-8 are an error too.

    Raises:
        DataError: the file is missing, lacks a column, or is damaged anywhere.
    """
    file = open_parquet(path)
    missing = [name for name in columns or () if name not in file.schema_arrow.names]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(file.schema_arrow.names) or 'none'}"
        )
    with named_in_errors(path):
        table = file.read(columns=None if columns is None else list(columns))
        table.validate(full=True)
    return table
