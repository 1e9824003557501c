"""Text corpora: Parquet and JSON lines, split into contiguous tasks and read record by record.

Files are on a disk or behind a URL (remote.py). Order is the input's. A record that is no usable
text comes out as `Rejected`, never as an error: a corpus of billions always holds a few. A file
that cannot be read at all is an error.
"""

import glob
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from ..io.files import fingerprint_of, fingerprint_of_files
from ..io.json_lines import parse_object, record_id
from ..io.parquet import (
    advice_on_csv,
    ids_of,
    is_text,
    open_parquet,
    read_batches,
    require_columns,
    text_as_bytes,
)
from ..io.rejected import Rejected
from ..io.remote import RemoteFile, find_remote, is_remote
from ..jobs.progress import Progress

CorpusFile = Path | RemoteFile
_COMPRESSED = (".gz", ".zst")
_ROWS_AT_A_TIME, _REQUESTS_AT_ONCE = 1024, 16


@dataclass(frozen=True)
class Document:
    """One text of a corpus."""

    id: str
    text: str


@dataclass(frozen=True)
class Piece:
    """A contiguous part of a file: rows of Parquet, or the JSON lines that start in some bytes."""

    path: CorpusFile
    start: int
    stop: int


def find_texts(inputs: str | Path | Sequence[str | Path]) -> list[CorpusFile]:
    """Corpus files from paths, folders, glob patterns and URLs, sorted within each.

    Raises:
        DataError: nothing there, or a file of an unknown kind.
        ConfigError: the package that opens such a URL is missing.
    """
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    found: list[CorpusFile] = []
    for named in given:
        item = Path(named)
        if is_remote(named):
            files = [file for file in find_remote(str(named)) if not _is_hidden(file.name)]
            found += [file for file in files if _kind(file)] or files
        elif item.is_dir():
            found += _inside(item)
        elif item.exists():
            found.append(item)
        else:
            matches = sorted(map(Path, glob.glob(str(item))))
            if not matches:
                raise DataError(f"corpus {item} does not exist")
            found += [path for path in matches if not _is_hidden(path.name)]
    if not found:
        raise DataError(f"no .parquet or .jsonl(.gz, .zst) files in {', '.join(map(str, given))}")
    for path in found:
        if not _kind(path):
            advice = "" if isinstance(path, RemoteFile) else advice_on_csv(path)
            raise DataError(
                f"{path} is no known corpus format; expected .parquet, .jsonl, .jsonl.gz or "
                f".jsonl.zst{advice}"
            )
    return found


def _is_hidden(name: str) -> bool:
    """Made by a system and no corpus: `._a.parquet`, `.a.parquet.crc`, `_SUCCESS`."""
    return name.startswith(".") or name in ("_SUCCESS", "_metadata", "_common_metadata")


def _inside(folder: Path) -> Iterator[Path]:
    """Corpus files of a folder, sorted; of `a.parquet/` as well, which Spark writes."""
    for path in sorted(folder.iterdir()):
        if _kind(path) and not _is_hidden(path.name):
            yield from _inside(path) if path.is_dir() else [path]


def _kind(path: CorpusFile) -> str | None:
    name = path.name.lower()
    if name.endswith(".parquet"):
        return "parquet"
    if name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson")):
        return "compressed" if name.endswith(_COMPRESSED) else "lines"
    return None


def _size(path: CorpusFile) -> int:
    return path.size if isinstance(path, RemoteFile) else path.stat().st_size


def _open_parquet(path: CorpusFile) -> pq.ParquetFile:
    return open_parquet(path.open() if isinstance(path, RemoteFile) else path, str(path))


def _row_counts(tables: Sequence[CorpusFile]) -> list[int]:
    def count(path: CorpusFile) -> int:
        return _open_parquet(path).metadata.num_rows

    if not any(isinstance(path, RemoteFile) for path in tables):
        return [count(path) for path in tables]
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        return list(pool.map(count, tables))


def split_inputs(paths: Sequence[CorpusFile], tasks: int) -> list[list[Piece]]:
    """Cut the files into `tasks` contiguous shares of about equal bytes; order is kept.

    A compressed file belongs whole to the task in which it starts. Concatenating the tasks gives
    the input for any number of tasks.
    """
    sizes = [_size(path) for path in paths]
    total = sum(sizes)
    tables = [path for path in paths if is_parquet(path)]
    rows = dict(zip(tables, _row_counts(tables), strict=True))
    shares: list[list[Piece]] = []
    for task in range(tasks):
        low, high = total * task // tasks, total * (task + 1) // tasks
        share, begin = [], 0
        for path, size in zip(paths, sizes, strict=True):
            start, stop = max(low - begin, 0), min(high - begin, size)
            if start < stop:
                if path in rows:
                    start, stop = start * rows[path] // size, stop * rows[path] // size
                elif _kind(path) == "compressed":
                    start, stop = (0, size) if start == 0 else (0, 0)
                if start < stop:
                    share.append(Piece(path, start, stop))
            begin += size
        shares.append(share)
    return shares


def total_bytes(paths: Sequence[CorpusFile]) -> int:
    """Size of the files as they are stored."""
    return sum(map(_size, paths))


def fingerprint_inputs(paths: Sequence[CorpusFile], threads: int = 1) -> list[list[str]]:
    """Path and fingerprint of the contents of every file, which is read to its end for it.

    Size and time do not do: a corpus that was edited in place can keep both. Remote files are
    known by what their store says of them (an ETag, a commit) and are not read for it.
    """
    with (
        Progress("fingerprint corpus", total_bytes(paths), "bytes") as progress,
        ThreadPoolExecutor(max_workers=max(threads, 1)) as pool,
    ):
        found = []
        for path, name in zip(paths, pool.map(_fingerprint, paths), strict=True):
            found.append([str(path), name])
            progress.advance(_size(path))
    return found


def _fingerprint(path: CorpusFile) -> str:
    if isinstance(path, RemoteFile):
        return fingerprint_of(path.url, str(path.size), path.version)
    return fingerprint_of_files(path)


def read_pieces(
    pieces: Sequence[Piece], text_key: str = "text", id_key: str = "id"
) -> Iterator[Document | Rejected]:
    """Yield the documents of some pieces in order, unusable records as `Rejected`.

    Without an id a document is named after its file and its row, byte offset or line.

    Raises:
        DataError: a file is damaged or has no column of that name, or one that is not text.
    """
    for piece in pieces:
        if is_parquet(piece.path):
            yield from _read_parquet(piece, text_key, id_key)
        else:
            for name, line in read_lines(piece):
                if line.strip():
                    yield _parse_line(name, line, text_key, id_key)


def is_parquet(path: CorpusFile) -> bool:
    return _kind(path) == "parquet"


def _read_parquet(piece: Piece, text_key: str, id_key: str) -> Iterator[Document | Rejected]:
    file = _open_parquet(piece.path)
    schema = file.schema_arrow
    columns = [text_key] + ([id_key] if id_key in schema.names and id_key != text_key else [])
    require_columns(str(piece.path), schema.names, columns)
    text_type = schema.field(text_key).type
    if not is_text(text_type):
        raise DataError(f"{piece.path}: column {text_key!r} holds {text_type}, expected text")
    row = 0
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if row + size <= piece.start or row >= piece.stop:
            row += size
            continue
        for batch in read_batches(file, str(piece.path), _ROWS_AT_A_TIME, columns, [group]):
            first = max(piece.start - row, 0)
            last = min(piece.stop - row, batch.num_rows)
            if first < last:
                yield from _parquet_rows(piece.path, batch.slice(first, last - first), row + first)
            row += batch.num_rows


def _parquet_rows(
    path: CorpusFile, batch: pa.RecordBatch, row: int
) -> Iterator[Document | Rejected]:
    raw = text_as_bytes(batch.column(0))
    ids = ids_of(batch.column(1)) if batch.num_columns > 1 else [None] * len(raw)
    for offset, (value, given) in enumerate(zip(raw, ids, strict=True)):
        name = f"{path.name}:{row + offset}" if given is None else str(given)
        yield _usable(name, value)


def read_lines(piece: Piece) -> Iterator[tuple[str, bytes]]:
    """Lines with a name each, of a piece that is no Parquet."""
    path = piece.path
    with path.open() if isinstance(path, RemoteFile) else open(path, "rb") as stream:
        if _kind(path) == "compressed":
            try:
                for number, line in enumerate(_decompressed(stream, path.name)):
                    yield f"{path.name}:{number}", line
            except (EOFError, OSError, zlib.error) as error:
                if "too much memory" in str(error):
                    raise DataError(
                        f"{path} was compressed with a window of more than 128 MiB (zstd --long); "
                        "write it anew: zstd -dc --long=31 OLD | zstd -o NEW"
                    ) from None
                raise DataError(f"{path} is damaged or cut short: {error}") from None
            return
        if piece.start:
            stream.seek(piece.start - 1)
            stream.readline()
        while (position := stream.tell()) < piece.stop:
            yield f"{path.name}@{position}", stream.readline()


def _decompressed(stream: BinaryIO, name: str) -> Iterable[bytes]:
    if name.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=stream)
    return io.BufferedReader(pa.input_stream(stream, compression="zstd"))


def _parse_line(name: str, line: bytes, text_key: str, id_key: str) -> Document | Rejected:
    if isinstance(record := parse_object(name, line), Rejected):
        return record
    named = record_id(name, record, id_key)
    if isinstance(named, Rejected):
        return named
    if text_key not in record:
        return Rejected(named, "no_such_key", f"{text_key!r} is missing; keys: {list(record)[:8]}")
    return _usable(named, record[text_key])


def _usable(name: str, value: Any) -> Document | Rejected:
    if value is None:
        return Rejected(name, "null_text")
    if not isinstance(value, str | bytes):
        return Rejected(name, "not_text", _shown(value))
    try:
        # a JSON escape can smuggle in half a surrogate pair, which no tokenizer accepts
        text = value.decode("utf-8") if isinstance(value, bytes) else value
        text.encode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        return Rejected(name, "invalid_utf8", str(error))
    return Document(name, text) if text.strip() else Rejected(name, "empty_text")


def _shown(value: Any) -> str:
    kind = type(value).__name__
    # what is nested may be deeper than repr can go
    return kind if isinstance(value, list | dict) else f"{kind}: {value!r}"[:200]
