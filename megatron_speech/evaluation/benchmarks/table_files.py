"""Tables that benchmarks come as: Parquet with audio inside, CSV, TSV, JSON, JSON lines."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...io.json_lines import parse_object
from ...io.parquet import read_parquet
from ...io.rejected import Rejected
from .items import Utterance

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
_AUDIO_COLUMNS = ("audio", "question_audio", "audio_filename", "audio_path", "Wav Filename", "wav")
_AUDIO_FOLDERS = ("", "audios", "audio", "wav", "wavs")


def read_table(path: Path) -> list[dict[str, Any]]:
    """All rows by column.

    Raises:
        DataError: the file is missing, damaged or no such table.
    """
    if path.suffix == ".parquet":
        return read_parquet(path).to_pylist()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from None
    if path.suffix in (".csv", ".tsv"):
        dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
        try:
            rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True, **dialect))
        except csv.Error as error:
            raise DataError(f"{path} is no {path.suffix[1:].upper()} table: {error}") from None
        short = next((n for n, row in enumerate(rows, 2) if None in row.values()), None)
        if short is not None:
            raise DataError(f"{path}: row {short} has fewer fields than the header")
        return rows
    if path.suffix == ".jsonl":
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        return [_object(path, number, line) for number, line in lines]
    return _json(path, text)


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    record = parse_object(f"line {number}", line.encode("utf-8"))
    if isinstance(record, Rejected):
        raise DataError(f"{path}, line {number} is no JSON object: {record.detail}")
    return record


def _json(path: Path, text: str) -> list[dict[str, Any]]:
    """A list of objects, or an object of which one value is such a list (TriviaQA's `Data`)."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from None
    lists = [content] if isinstance(content, list) else []
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
    rows = next((found for found in lists if found and all(isinstance(r, dict) for r in found)), [])
    if not rows:
        raise DataError(f"{path} holds no list of objects")
    return rows


def column(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str | None:
    """The first of `names` that the first row has."""
    return next((name for name in names if rows and name in rows[0]), None)


def utterance_of(folder: Path, key: str, text: str | None, row: dict[str, Any]) -> Utterance:
    """What a row says, with its audio: inside the row, or a file it names below `folder`.

    The file names the utterance; `key` does where there is none.
    """
    name = next((name for name in _AUDIO_COLUMNS if row.get(name) is not None), None)
    if name is None:
        return Utterance(key=key, text=text)
    value = row[name]
    if isinstance(value, dict):  # of Hugging Face's audio columns
        if value.get("bytes") is not None:
            return Utterance(key=key, text=text, audio=value["bytes"])
        value = value.get("path")
    if not value:
        return Utterance(key=key, text=text)
    places = [folder / inside / str(value) for inside in _AUDIO_FOLDERS]
    found = next((place for place in places if place.is_file()), None)
    if found is not None:
        key = str(found.relative_to(folder).with_suffix(""))
    return Utterance(key=key, text=text, audio=found)
