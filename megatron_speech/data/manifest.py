"""Lists of recordings (manifests) and lists of texts, read with clear errors. Imports no torch.

A manifest is Parquet or TSV with columns id, path, text, speaker, language and, if known,
duration_s. A text list is Parquet or JSON lines (plain, .gz or .zst) with `text` and perhaps `id`.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from ..files import atomic_path

MANIFEST_COLUMNS = ("id", "path", "text", "speaker", "language")
_TEXT_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """One recording."""

    id: str
    """Unique; sentence n of a longer recording is called `<document>/<nnn>`."""
    path: Path
    """Where the audio is; relative paths of the file are made relative to its folder."""
    text: str
    """What is said."""
    speaker: str = ""
    language: str = ""
    duration_s: float = 0.0
    """Length; 0 if the manifest does not say."""


def read_manifest(path: str | Path) -> list[ManifestRow]:
    """Read a manifest. The recordings are not opened: a missing one is for its reader to report.

    Raises:
        DataError: the manifest is missing, unreadable, empty, lacks a column, has an empty id or
            path, or the same id twice.
    """
    path = Path(path)
    columns = _read_tsv(path) if path.suffix == ".tsv" else _read_parquet_columns(path)
    _require_columns(path, columns, MANIFEST_COLUMNS)
    durations = columns.get("duration_s") or [0.0] * len(columns["id"])
    rows = []
    for number, values in enumerate(
        zip(*(columns[name] for name in MANIFEST_COLUMNS), durations, strict=True)
    ):
        identifier, audio, text, speaker, language, duration_s = values
        if not identifier or not audio:
            raise DataError(f"{path}, row {number}: id and path must not be empty")
        rows.append(
            ManifestRow(
                id=str(identifier),
                path=path.parent / str(audio),
                text=str(text or ""),
                speaker=str(speaker or ""),
                language=str(language or ""),
                duration_s=_duration(path, number, duration_s),
            )
        )
    if not rows:
        raise DataError(f"manifest {path} has no rows")
    _require_distinct(path, (row.id for row in rows))
    return rows


def write_manifest(path: str | Path, rows: Sequence[ManifestRow]) -> None:
    """Write a Parquet manifest; paths below its folder are kept relative to it."""
    path = Path(path)
    folder = path.parent.resolve()

    def relative(audio: Path) -> str:
        audio = audio.resolve()
        return str(audio.relative_to(folder) if audio.is_relative_to(folder) else audio)

    table = pa.table(
        {
            "id": pa.array([row.id for row in rows], pa.string()),
            "path": pa.array([relative(row.path) for row in rows], pa.string()),
            "text": pa.array([row.text for row in rows], pa.string()),
            "speaker": pa.array([row.speaker for row in rows], pa.string()),
            "language": pa.array([row.language for row in rows], pa.string()),
            "duration_s": pa.array([row.duration_s for row in rows], pa.float32()),
        }
    )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_texts(path: str | Path, text_column: str = "text") -> list[tuple[str, str]]:
    """Read (id, text) pairs from Parquet or JSON lines; without ids, `<file>-<row>` is used.

    Raises:
        DataError: the file is missing, unreadable, empty, not UTF-8, lacks `text_column` or has
            the same id twice.
    """
    path = Path(path)
    if path.name.endswith(_TEXT_SUFFIXES[1:]):
        columns = _read_jsonl(path, text_column)
    elif path.suffix == ".parquet":
        columns = _read_parquet_columns(path, ("id", text_column))
    else:
        raise DataError(f"text list {path}: expected a name ending in {', '.join(_TEXT_SUFFIXES)}")
    _require_columns(path, columns, (text_column,))
    texts = columns[text_column]
    if not texts:
        raise DataError(f"text list {path} is empty")
    stem = path.name.split(".")[0]
    ids = columns.get("id") or [f"{stem}-{number:07d}" for number in range(len(texts))]
    pairs = [(str(i), str(text or "")) for i, text in zip(ids, texts, strict=True)]
    _require_distinct(path, (identifier for identifier, _ in pairs))
    return pairs


def _duration(path: Path, number: int, value: object) -> float:
    try:
        return float(value or 0.0)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise DataError(
            f"{path}, row {number}: duration_s is {value!r}, expected seconds"
        ) from None


def _require_columns(path: Path, columns: dict[str, list], needed: Iterable[str]) -> None:
    missing = [name for name in needed if name not in columns]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(sorted(columns)) or 'none'}"
        )


def _require_distinct(path: Path, ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for identifier in ids:
        if identifier in seen:
            raise DataError(f"{path} has id {identifier!r} more than once; ids must be unique")
        seen.add(identifier)


def _read_parquet_columns(path: Path, wanted: Sequence[str] | None = None) -> dict[str, list]:
    try:
        file = pq.ParquetFile(path)
        names = [n for n in file.schema_arrow.names if wanted is None or n in wanted]
        table = file.read(columns=names)
        if not names:
            return {name: [] for name in file.schema_arrow.names}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from None
    try:
        return {name: table[name].to_pylist() for name in names}
    except UnicodeDecodeError as error:
        raise DataError(f"{path} holds text that is not valid UTF-8: {error.reason}") from None


def _read_bytes(path: Path) -> bytes:
    """The whole file, decompressed by its suffix."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                return stream.read()
        if path.suffix == ".zst":
            with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
                return stream.read()
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _decode(path: Path, line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not valid UTF-8 ({error.reason} at byte {error.start}); "
            "convert the file to UTF-8"
        ) from None


def _read_jsonl(path: Path, text_column: str) -> dict[str, list]:
    columns: dict[str, list] = {text_column: [], "id": []}
    for number, line in enumerate(_read_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(_decode(path, line, number))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error.msg}") from None
        if not isinstance(record, dict) or text_column not in record:
            fields = (
                ", ".join(sorted(record)) if isinstance(record, dict) else type(record).__name__
            )
            raise DataError(f"{path}, line {number}: no field {text_column!r}; it has {fields}")
        columns[text_column].append(record[text_column])
        if record.get("id") is not None:
            columns["id"].append(record["id"])
    if columns["id"] and len(columns["id"]) != len(columns[text_column]):
        raise DataError(f"{path}: some lines have an id and some do not; give all or none")
    if not columns["id"]:
        del columns["id"]
    return columns


def _read_tsv(path: Path) -> dict[str, list]:
    data = _read_bytes(path)
    lines = [_decode(path, line, n) for n, line in enumerate(data.split(b"\n"), start=1)]
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter="\t", quoting=csv.QUOTE_NONE)
    header = next(reader, [])
    columns: dict[str, list] = {name: [] for name in header}
    for number, values in enumerate(reader, start=2):
        if not values:
            continue
        if len(values) != len(header):
            raise DataError(
                f"{path}, line {number}: {len(values)} fields, expected {len(header)} "
                f"({', '.join(header)}) separated by tabs"
            )
        for name, value in zip(header, values, strict=True):
            columns[name].append(value)
    return columns
