"""Unit sequences as other projects store them: JSON lines, Parquet, NumPy. Imports no torch.

A row has units under one of several names (slamkit's `units`, CosyVoice's `speech_token`): a list
of integers, a list for each codebook (Mimi), or a string of numbers ("71 12", "<Un71><Un12>").
"""

import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import pyarrow as pa

from ..errors import DataError
from ..io.files import find_in
from ..io.json_lines import parse_object
from ..io.parquet import open_parquet
from ..io.rejected import Rejected
from .code_shards import CodeRecord
from .list_files import Row, as_text, read_parquet_rows

UNIT_KEYS = (
    "units", "codes", "speech_token", "speech_tokens", "audio_tokens", "tokens", "audio_repr",
)  # fmt: skip
ID_KEYS = ("id", "utt", "utt_id", "key")
PATH_KEYS = ("file_name", "audio_filepath", "path", "audio_path")
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".npy", ".npz")
_TEXT_KEYS = ("text", "transcript", "transcription", "sentence")
_LANGUAGE_KEYS = ("language", "lang")
_SPEAKER_KEYS = ("speaker", "spk", "speaker_id")
_COUNT_KEYS = ("duration", "durations")
_SECONDS_KEYS = ("duration_s", "duration")
_UNIT_WORD = re.compile(r"<[A-Za-z_|]*(\d+)\|?>|(\d+)[\s,]*")
_MOST_CODES_A_RECORD = 1 << 24
_BAD_ARRAYS = (
    OSError, EOFError, ValueError, LookupError, ArithmeticError, MemoryError, RuntimeError,
    zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What zipfile and NumPy say of damaged archives, of encrypted ones, and of arrays too large."""

Repetitions = Literal["expand", "collapse"]


@dataclass(frozen=True, kw_only=True)
class UnitLayout:
    """How units of a row become codes."""

    units_key: str | None = None
    """Column or key that holds the units; by default the first of the usual names."""
    codebook: int = 0
    """Which of several codebooks to take: 0 is the first (the semantic one of Mimi)."""
    repetitions: Repetitions = "expand"
    """expand repeats units as often as their counts say, where there are counts, so that codes have
    places in time; collapse leaves one of each run, as HuBERT language models often do."""


def find_unit_files(inputs: Sequence[Path]) -> list[Path]:
    """Files named directly or found in folders, sorted within each folder.

    Raises:
        DataError: nothing was found, or a file of another kind was named.
    """
    found: list[Path] = []
    for path in inputs:
        inside = [p for p in find_in(path, "**/*") if p.name.lower().endswith(SUFFIXES)]
        found += inside if path.is_dir() else [path]
    other = [path for path in found if not path.name.lower().endswith(SUFFIXES)]
    if other or not found:
        named = ", ".join(map(str, other[:3] or inputs))
        raise DataError(
            f"{named}: no unit sequences; expected {', '.join(SUFFIXES)}, or folders of them. "
            "Torch's .pt files are not read, since they can run code: write them as .npz first"
        )
    return found


def read_unit_rows(path: Path, layout: UnitLayout) -> Iterator[Row | Rejected]:
    """Rows of a file; of NumPy files each array is a row with `id` and `units`.

    Raises:
        DataError: the file is missing or damaged; Parquet without units under any known name.
    """
    name = path.name.lower()
    if name.endswith((".npy", ".npz")):
        yield from _arrays(path)
    elif name.endswith(".parquet"):
        names = open_parquet(path).schema_arrow.names
        units = _first(dict.fromkeys(names, True), _unit_keys(layout))
        if units is None:
            raise _no_units(path, names, layout)
        known = (*ID_KEYS, *PATH_KEYS, *_TEXT_KEYS, *_LANGUAGE_KEYS, *_SPEAKER_KEYS)
        optional = dict.fromkeys((*known, *_COUNT_KEYS, *_SECONDS_KEYS))
        yield from read_parquet_rows(path, [units], [k for k in optional if k != units])
    else:
        yield from _json_rows(path)


def _json_rows(path: Path) -> Iterator[Row | Rejected]:
    number = -1
    with _opened(path) as stream:
        for line_number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            number += 1
            record = parse_object(f"line {line_number}", line)
            yield record if isinstance(record, Rejected) else Row(number, record)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A stream of lines, decompressed by the suffix; what is wrong with the file names it."""
    try:
        with ExitStack() as stack:
            if path.suffix.lower() == ".zst":
                packed = stack.enter_context(pa.OSFile(str(path)))
                unpacked = pa.CompressedInputStream(packed, "zstd")
                yield stack.enter_context(io.BufferedReader(unpacked))
            elif path.suffix.lower() == ".gz":
                yield cast(BinaryIO, stack.enter_context(gzip.open(path)))
            else:
                yield stack.enter_context(open(path, "rb"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _arrays(path: Path) -> Iterator[Row]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            yield Row(0, {"id": path.stem, "units": loaded})
            return
        with loaded:
            for number, name in enumerate(loaded.files):
                yield Row(number, {"id": name, "units": loaded[name]})
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except _BAD_ARRAYS as error:
        raise DataError(
            f"{path} cannot be read as NumPy arrays ({error}); arrays of objects are not read: "
            "write one array of integers for each recording"
        ) from None


def record_of(row: Row, layout: UnitLayout, frame_rate_hz: float) -> CodeRecord | Rejected:
    """The code record of a row, or why there is none.

    Its id is that of the row, or the path of its audio without suffix and with `_` for `/`: a slash
    before a number would make segments of one recording of what are neighbouring files.

    Raises:
        LookupError, TypeError, ValueError: values of an unexpected kind.
    """
    values = row.values
    name = row_name(row)
    raw = values.get(_first(values, _unit_keys(layout)) or "")
    if raw is None:
        return Rejected(name, "no_units", _expected(list(values), layout))
    codes = _codes(raw, layout.codebook)
    counts = next(
        (values[key] for key in _COUNT_KEYS if isinstance(values.get(key), list | np.ndarray)), None
    )
    seconds = next(
        (values[key] for key in _SECONDS_KEYS if isinstance(values.get(key), int | float)), 0.0
    )
    if counts is not None:
        counts = np.asarray(counts)
        if counts.shape != codes.shape or counts.dtype.kind not in "iu" or (counts < 1).any():
            return Rejected(name, "bad_counts", f"{counts.shape} counts for {codes.shape} units")
        if counts.sum() > _MOST_CODES_A_RECORD:
            return Rejected(name, "bad_counts", f"{counts.sum():,} codes in one recording")
        seconds = seconds or float(counts.sum()) / frame_rate_hz
        codes = np.repeat(codes, counts) if layout.repetitions == "expand" else codes
    elif not seconds:
        seconds = len(codes) / frame_rate_hz
    if layout.repetitions == "collapse":
        codes = codes[np.flatnonzero(np.append(True, np.diff(codes) != 0)[: len(codes)])]
    return CodeRecord(
        id=name,
        codes=codes,
        duration_s=float(seconds),
        text=_text_of(values, _TEXT_KEYS),
        language=_text_of(values, _LANGUAGE_KEYS),
        speaker=_text_of(values, _SPEAKER_KEYS),
    )


def row_name(row: Row) -> str:
    """The id of a row's record."""
    given = _first(row.values, ID_KEYS)
    if given is not None:
        return as_text(row.values[given])
    path = audio_path(row)
    if path is None:
        return f"row-{row.number}"
    parts = [part for part in path.with_suffix("").parts if part not in ("..", "/")]
    return "_".join(parts)


def audio_path(row: Row) -> PurePosixPath | None:
    """Where a row says its audio is."""
    key = _first(row.values, PATH_KEYS)
    return None if key is None else PurePosixPath(as_text(row.values[key]))


def _codes(raw: Any, codebook: int) -> np.ndarray:
    """Units as they came -> codes (n,) int64."""
    if isinstance(raw, str | bytes):
        raw = _units_of_text(as_text(raw))
    array = np.asarray(raw)
    if array.ndim == 3 and len(array) == 1:
        array = array[0]
    if array.ndim == 2:
        array = _one_codebook(array, codebook)
    if array.ndim != 1:
        raise ValueError(f"units of shape {array.shape}, expected (n,) or (codebooks, n)")
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"units are {array.dtype}, expected integers")
    return array.astype(np.int64)


def _one_codebook(array: np.ndarray, codebook: int) -> np.ndarray:
    """One codebook of (codebooks, n) or (n, codebooks): there are fewer codebooks than codes."""
    codebooks, frames = sorted(array.shape)
    if codebooks == frames and frames > 1:
        raise ValueError(f"units of shape {array.shape}: which axis are the codebooks?")
    if codebook >= codebooks:
        raise ValueError(f"no codebook {codebook}: units of shape {array.shape}")
    return array.take(codebook, axis=array.shape.index(codebooks))


def _units_of_text(text: str) -> list[int]:
    found, position = [], 0
    text = text.strip()
    while position < len(text):
        match = _UNIT_WORD.match(text, position)
        if match is None:
            raise ValueError(f"{text[position : position + 40]!r} among the units")
        found.append(int(match[1] or match[2]))
        position = match.end()
    return found


def _unit_keys(layout: UnitLayout) -> Sequence[str]:
    return UNIT_KEYS if layout.units_key is None else (layout.units_key,)


def _first(values: dict[str, Any], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if values.get(key) is not None), None)


def _text_of(values: dict[str, Any], keys: Sequence[str]) -> str | None:
    key = _first(values, keys)
    return None if key is None else as_text(values[key])


def _no_units(path: Path, names: Sequence[str], layout: UnitLayout) -> DataError:
    return DataError(f"{path} has no units: {_expected(names, layout)}")


def _expected(names: Sequence[str], layout: UnitLayout) -> str:
    return (
        f"expected a column or key called {', '.join(_unit_keys(layout))}, found "
        f"{', '.join(sorted(map(str, names)))[:200] or 'none'}; name it by --units-key"
    )
