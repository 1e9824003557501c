"""Lists of recordings (manifests) and lists of texts, read with clear errors. Imports no torch.

A manifest is Parquet or TSV with columns id, path, text, speaker, language and, if known,
duration_s, license and consent, or JSON lines (plain, .gz or .zst) with fields of those names, of
which id and path are needed. A text list is Parquet or JSON lines with `text` and perhaps `id`.

A row that cannot be used is set aside with a reason and the others are returned; a file, a header
or a column that is not there is an error, and so is a list without one usable row.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import DataError
from ..io.json_lines import is_unicode
from ..io.parquet import advice_on_csv, write_parquet
from ..io.rejected import Rejected, count_reasons, describe_counts
from .list_files import (
    Row,
    as_text,
    made_of_rows,
    read_jsonl_rows,
    read_parquet_rows,
    read_tsv_rows,
)

MANIFEST_COLUMNS = ("id", "path", "text", "speaker", "language")
OPTIONAL_COLUMNS = ("duration_s", "license", "consent")
_TERMS = ("license", "consent")
JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """One row of a manifest: a whole file and what is said in it (a `Recording` may be a part)."""

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
    license: str = ""
    """Under which licence it may be used, in the manifest's words."""
    consent: str = ""
    """Whether who speaks agreed, in the manifest's words."""


def read_manifest(path: str | Path, rejected: list[Rejected] | None = None) -> list[ManifestRow]:
    """Read a manifest. The recordings are not opened: a missing one is for its reader to report.

    Rows without id or path, with an id that came before, or that are damaged are appended to
    `rejected`; without that list they are counted on stderr.

    Raises:
        DataError: the manifest is missing, unreadable, lacks a column, or has no usable row.
    """
    path = Path(path)
    return _usable(path, "manifest", manifest_rows(path), rejected)


def manifest_rows(path: Path) -> Iterator[ManifestRow | Rejected]:
    """What a manifest holds row by row; ids may come twice.

    Raises:
        DataError: the manifest is missing, unreadable, of another kind, or lacks a column.
    """
    if path.suffix.lower() == ".tsv":
        rows = read_tsv_rows(path, MANIFEST_COLUMNS)
    elif path.name.lower().endswith(JSONL_SUFFIXES):
        rows = read_jsonl_rows(path, "path")
    elif path.suffix.lower() == ".parquet" or not path.is_file():
        rows = read_parquet_rows(path, MANIFEST_COLUMNS, OPTIONAL_COLUMNS)
    else:
        raise DataError(
            f"manifest {path}: expected a name ending in .parquet, .tsv, "
            f"{', '.join(JSONL_SUFFIXES)}{advice_on_csv(path)}"
        )
    return manifest_rows_of(path.parent, rows)


def manifest_rows_of(
    folder: Path, rows: Iterable[Row | Rejected]
) -> Iterator[ManifestRow | Rejected]:
    """Rows of a manifest in `folder`, or why they cannot be used."""
    return made_of_rows(rows, partial(_manifest_row, folder), "invalid_row")


def _manifest_row(folder: Path, row: Row) -> ManifestRow | Rejected:
    values = row.values
    name = f"row {row.number}" if values.get("id") in (None, "") else str(values["id"])
    missing = next((key for key in ("id", "path") if values.get(key) in (None, "")), None)
    if missing:
        return Rejected(name, f"no_{missing}", f"row {row.number}: {missing} is empty")
    duration_s = seconds(values.get("duration_s") or 0.0)
    if duration_s is None:
        return Rejected(name, "bad_duration", f"{values['duration_s']!r}, expected seconds")
    name, audio, *texts = (as_text(values.get(key)) for key in (*MANIFEST_COLUMNS, *_TERMS))
    known = dict(zip((*MANIFEST_COLUMNS[2:], *_TERMS), texts, strict=True))
    return ManifestRow(id=name, path=folder / audio, duration_s=duration_s, **known)


def seconds(value: Any) -> float | None:
    """A length of time from a list; None if it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number < float("inf") else None


def manifest_name(path: Path) -> str:
    """What the recordings of a manifest are called: its file, or the folder of a `manifest.*`."""
    return path.parent.name if path.stem == "manifest" else path.stem


def write_manifest(path: str | Path, rows: Sequence[ManifestRow]) -> None:
    """Write a Parquet manifest; paths below its folder are kept relative to it."""
    path = Path(path)
    folder = path.parent.resolve()

    def relative(audio: Path) -> str:
        audio = audio.resolve()
        return str(audio.relative_to(folder) if audio.is_relative_to(folder) else audio)

    columns = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "path": pa.array([relative(row.path) for row in rows], pa.string()),
        "text": pa.array([row.text for row in rows], pa.string()),
        "speaker": pa.array([row.speaker for row in rows], pa.string()),
        "language": pa.array([row.language for row in rows], pa.string()),
        "duration_s": pa.array([row.duration_s for row in rows], pa.float32()),
    }
    for name in _TERMS:
        if any(getattr(row, name) for row in rows):
            columns[name] = pa.array([getattr(row, name) for row in rows], pa.string())
    write_parquet(path, pa.table(columns))


@dataclass(frozen=True)
class _Text:
    id: str
    text: str


def read_texts(
    path: str | Path, text_column: str = "text", rejected: list[Rejected] | None = None
) -> list[tuple[str, str]]:
    """Read (id, text) pairs from Parquet or JSON lines; without an id, `<file>-<row>` is used.

    Rows that are no text, damaged, or have an id that came before are appended to `rejected`;
    without that list they are counted on stderr.

    Raises:
        DataError: the file is missing, unreadable, lacks `text_column`, or has no usable row.
    """
    path = Path(path)
    if path.name.lower().endswith(JSONL_SUFFIXES):
        rows = read_jsonl_rows(path, text_column)
    elif path.suffix.lower() == ".parquet":
        rows = read_parquet_rows(path, (text_column,), ("id",))
    else:
        suffixes = ", ".join((".parquet", *JSONL_SUFFIXES))
        advice = advice_on_csv(path)
        raise DataError(f"text list {path}: expected a name ending in {suffixes}{advice}")
    stem = path.name.split(".")[0]
    found = made_of_rows(rows, lambda row: _text(stem, row, text_column), "invalid_row")
    return [(item.id, item.text) for item in _usable(path, "text list", found, rejected)]


def _text(stem: str, row: Row, text_column: str) -> _Text | Rejected:
    given, text = row.values.get("id"), row.values[text_column]
    name = as_text(given) if given is not None else f"{stem}-{row.number:07d}"
    if text is not None and not isinstance(text, str):
        return Rejected(name, "not_text", f"{type(text).__name__}: {text!r}"[:200])
    if not is_unicode(name, text or ""):
        return Rejected(f"row {row.number}", "invalid_utf8", "half a surrogate pair")
    return _Text(name, text or "")


def _usable(
    path: Path, kind: str, items: Iterable[Any], rejected: list[Rejected] | None
) -> list[Any]:
    """The items that are not set aside; ids must be distinct.

    Raises:
        DataError: none is left.
    """
    bad: list[Rejected] = []
    good = list(distinct(items, bad))
    if not good:
        raise nothing_usable(path, kind, bad)
    if rejected is not None:
        rejected += bad
    elif bad:
        print(
            f"{path}: {len(bad):,} of {len(good) + len(bad):,} rows are set aside: "
            f"{describe_counts(count_reasons(bad))}; the first, {bad[0].id!r}: {bad[0].detail}",
            file=sys.stderr,
        )
    return good


def nothing_usable(path: Path, kind: str, bad: Sequence[Rejected]) -> DataError:
    """The error of a list without one usable row."""
    if not bad:
        return DataError(f"{kind} {path} is empty: no rows")
    return DataError(
        f"{kind} {path} not one of its {len(bad)} rows can be used: "
        f"{describe_counts(count_reasons(bad))}; the first, {bad[0].id!r}: {bad[0].detail}"
    )


def distinct(items: Iterable[Any], bad: list[Rejected]) -> Iterator[Any]:
    """Items with an `id` that did not come before; the others, and those rejected, go to `bad`."""
    seen: set[str] = set()
    for item in items:
        if isinstance(item, Rejected):
            bad.append(item)
        elif item.id in seen:
            bad.append(Rejected(item.id, "duplicate_id", "the first row of this id is used"))
        else:
            seen.add(item.id)
            yield item
