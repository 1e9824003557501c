"""Code shards: the one file format in which speech codes travel between stages.

A shard is a Parquet file with columns id, codes, text, language, duration_s, speaker. Its file
metadata names the tokenizer that made it; a reader refuses shards of another one. Real and
synthetic speech use the same format. Imports no torch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..errors import DataError
from ..io.files import find_in
from ..io.parquet import open_parquet, read_parquet, write_parquet

_INFO_KEYS = ("frame_rate_hz", "num_codes", "tokenizer_fingerprint")
_NAMES = ("id", "text", "language", "duration_s", "speaker")


@dataclass(frozen=True, kw_only=True)
class CodeShardInfo:
    """What all records of a shard have in common."""

    frame_rate_hz: float
    """Codes per second of audio."""
    num_codes: int
    """Codebook size K; codes are 0..K-1."""
    tokenizer_fingerprint: str
    """Identifies weights and configuration of the speech tokenizer."""
    collapsed: bool = False
    """Whether a code that follows itself was dropped: then codes have no places in time."""

    def require_places_in_time(self, purpose: str) -> None:
        """Refuse codes without repetitions where `purpose` must know when each is heard.

        Raises:
            DataError: the codes are collapsed.
        """
        if self.collapsed:
            raise DataError(
                f"{purpose} needs codes at even steps of time, and repetitions were dropped from "
                "these; import them again with --repetitions expand (tools/import_codes.py)"
            )


@dataclass(frozen=True, kw_only=True)
class CodeRecord:
    """One utterance. `codes` has shape (n,), dtype int64."""

    id: str
    codes: np.ndarray
    text: str | None = None
    language: str | None = None
    duration_s: float = 0.0
    speaker: str | None = None


def write_code_shard(path: str | Path, records: Iterable[CodeRecord], info: CodeShardInfo) -> int:
    """Write one shard atomically and return the number of records.

    Raises:
        DataError: a code outside 0..num_codes-1.
    """
    records = list(records)
    for record in records:
        if record.codes.size and not 0 <= record.codes.min() <= record.codes.max() < info.num_codes:
            raise DataError(
                f"record {record.id!r} holds codes {record.codes.min()}..{record.codes.max()}; "
                f"the shard's tokenizer has codes 0..{info.num_codes - 1}"
            )
    code_type = pa.uint16() if info.num_codes <= 1 << 16 else pa.int32()
    columns = {
        "id": pa.array([r.id for r in records], pa.string()),
        "codes": pa.array([r.codes for r in records], pa.list_(code_type)),
        "text": pa.array([r.text for r in records], pa.string()),
        "language": pa.array([r.language for r in records], pa.string()),
        "duration_s": pa.array([r.duration_s for r in records], pa.float32()),
        "speaker": pa.array([r.speaker for r in records], pa.string()),
    }
    table = pa.table(columns).replace_schema_metadata(
        {key: str(getattr(info, key)) for key in _INFO_KEYS}
        | ({"repetitions": "collapsed"} if info.collapsed else {})
    )
    write_parquet(path, table)
    return len(records)


def read_shard_info(path: str | Path) -> CodeShardInfo:
    """Read a shard's metadata.

    Raises:
        DataError: the file is missing, unreadable or no code shard.
    """
    if not Path(path).exists():
        raise DataError(f"code shard {path} does not exist")
    metadata = open_parquet(path).schema_arrow.metadata or {}
    missing = [key for key in _INFO_KEYS if key.encode() not in metadata]
    if missing:
        raise DataError(
            f"{path} is no code shard: its metadata lacks {', '.join(missing)}; "
            "code shards are written by tools/tokenize_speech.py"
        )
    values = {key: metadata[key.encode()].decode("utf-8", "replace") for key in _INFO_KEYS}
    try:
        return CodeShardInfo(
            frame_rate_hz=float(values["frame_rate_hz"]),
            num_codes=int(values["num_codes"]),
            tokenizer_fingerprint=values["tokenizer_fingerprint"],
            collapsed=metadata.get(b"repetitions") == b"collapsed",
        )
    except ValueError as error:
        raise DataError(f"{path} is no code shard: its metadata is damaged: {error}") from None


def read_code_table(path: str | Path) -> tuple[CodeShardInfo, pa.Table]:
    """Read a whole shard as columns, checking every code against its codebook size.

    Raises:
        DataError: the file is no code shard, is damaged, or a code is out of range.
    """
    info = read_shard_info(path)
    table = read_parquet(path, ("codes", *_NAMES))
    _check_types(path, table)
    flat = table["codes"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if flat.size and not 0 <= flat.min() <= flat.max() < info.num_codes:
        raise DataError(
            f"{path} holds codes {flat.min()}..{flat.max()}, but says its tokenizer has "
            f"codes 0..{info.num_codes - 1}; the shard is damaged, make it again"
        )
    return info, table


def _check_types(path: str | Path, table: pa.Table) -> None:
    """Refuse columns of another kind than those that `write_code_shard` writes."""
    for name in ("codes", *_NAMES):
        column = table[name]
        kind = column.type
        if name == "codes":
            fits = (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and (
                pa.types.is_integer(kind.value_type)
            )
            nulls = not fits or column.null_count or column.combine_chunks().flatten().null_count
        elif name == "duration_s":
            fits, nulls = pa.types.is_floating(kind), column.null_count
        else:
            fits = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            nulls = name == "id" and column.null_count
        if not fits or nulls:
            came = f"holds {kind}" if not fits else "has rows without a value"
            raise DataError(
                f"{path}: column {name!r} {came}; code shards as tools/tokenize_speech.py writes "
                "them have lists of integers in codes, seconds as floats in duration_s, and text "
                "in the others"
            )


def read_code_shard(path: str | Path) -> tuple[CodeShardInfo, list[CodeRecord]]:
    """Read a whole shard as records; raises as `read_code_table`."""
    info, table = read_code_table(path)
    code_lists = table["codes"].combine_chunks()
    flat = code_lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    lengths = code_lists.value_lengths().to_numpy(zero_copy_only=False)
    codes = np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []
    columns = zip(*(table[name].to_pylist() for name in _NAMES), strict=True)
    records = [
        CodeRecord(codes=array, **dict(zip(_NAMES, values, strict=True)))
        for array, values in zip(codes, columns, strict=True)
    ]
    return info, records


def find_shards(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Shard files named directly or found in folders, sorted within each folder.

    Raises:
        DataError: nothing was found.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found: list[Path] = []
    for path in map(Path, given):
        found += find_in(path, "*.parquet") if path.is_dir() else [path]
    if not found:
        raise DataError(f"no code shards (*.parquet) found in {', '.join(map(str, given))}")
    return found


def read_code_shards(
    paths: str | Path | Sequence[str | Path], tokenizer_fingerprint: str | None = None
) -> tuple[CodeShardInfo, Iterator[CodeRecord]]:
    """Read several shards as one stream, refusing those of another speech tokenizer.

    The shards must agree with each other and, if given, with `tokenizer_fingerprint`.

    Raises:
        DataError: no shards, a damaged one, or fingerprints that differ.
    """
    shards = find_shards(paths)
    infos = {shard: read_shard_info(shard) for shard in shards}
    expected = tokenizer_fingerprint or infos[shards[0]].tokenizer_fingerprint
    for shard, info in infos.items():
        if info.tokenizer_fingerprint != expected:
            raise DataError(
                f"{shard} was made by speech tokenizer {info.tokenizer_fingerprint}, expected "
                f"{expected}; tokenize that audio again with the run's tokenizer"
            )
    return infos[shards[0]], (record for shard in shards for record in read_code_shard(shard)[1])
