"""Bulk tokenization: a manifest in, code shards out, resumable at any instant."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..audio import SAMPLE_RATE_HZ, read_audio
from ..data.code_shards import CodeRecord, CodeShardInfo, write_code_shard
from ..data.manifest import ManifestRow, read_manifest
from ..errors import AudioError, ConfigError, DataError
from ..files import fingerprint_of_files, read_json, write_json, write_text
from ..progress import Progress
from .tokenizer import SpeechTokenizer

_PARTS = ".rejected"
_JOB = "job.json"


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig:
    """What to tokenize, with what, to where."""

    manifest: Path
    """Manifest (parquet or tsv) of the recordings."""
    speech_tokenizer: Path
    """Folder of the speech tokenizer."""
    output: Path
    """Folder of the code shards."""
    shard_size: int = 4096
    """Recordings per shard."""
    device: str = "cpu"
    """Where the encoder runs: cpu, cuda, cuda:1."""
    num_workers: int = 4
    """Threads that read audio."""

    def __post_init__(self) -> None:
        if self.shard_size < 1 or self.num_workers < 1:
            raise ConfigError("--shard-size and --num-workers must be at least 1")


@dataclass(frozen=True, kw_only=True)
class TokenizeResult:
    """Counts of a finished job, earlier runs of it included."""

    shards: int
    """Shards in the folder."""
    records: int
    """Recordings tokenized by this call."""
    hours: float
    """Audio tokenized by this call."""
    skipped_shards: int
    """Shards that were there already."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Recordings set aside in the whole job, by reason."""

    def __str__(self) -> str:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(self.rejected.items()))
        return (
            f"{self.shards} shards ({self.skipped_shards} were there), {self.records} recordings, "
            f"{self.hours:.2f} h; set aside: {reasons or 'none'}"
        )


def tokenize_manifest(config: TokenizeConfig) -> TokenizeResult:
    """Tokenize a manifest shard by shard; bad recordings go to `rejected.jsonl`.

    Raises:
        DataError: an unusable manifest, shards of another tokenizer in the output folder, or a
            job in which every recording was rejected.
    """
    rows = read_manifest(config.manifest)
    tokenizer = SpeechTokenizer.from_pretrained(config.speech_tokenizer, config.device)
    info = CodeShardInfo(
        frame_rate_hz=tokenizer.frame_rate_hz,
        num_codes=tokenizer.num_codes,
        tokenizer_fingerprint=tokenizer.fingerprint,
    )
    parts = [rows[at : at + config.shard_size] for at in range(0, len(rows), config.shard_size)]
    paths = [config.output / f"shard_{index:06d}.parquet" for index in range(len(parts))]
    _check_same_job(config, info)
    seconds, records, skipped, started = 0.0, 0, 0, time.monotonic()
    with (
        Progress("tokenizing speech", len(rows), "clips") as progress,
        ThreadPoolExecutor(max_workers=config.num_workers) as pool,
    ):
        for path, part in zip(paths, parts, strict=True):
            rejected_path = config.output / _PARTS / f"{path.stem}.jsonl"
            if path.exists() and rejected_path.exists():
                skipped += 1
                progress.advance(len(part), "already there")
                continue
            found, rejected = _tokenize_rows(tokenizer, part, pool)
            lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in rejected]
            write_text(rejected_path, "".join(lines))
            write_code_shard(path, found, info)
            records += len(found)
            seconds += sum(record.duration_s for record in found)
            progress.advance(len(part), _speed(seconds, started))
    counts = _merge_rejected(config.output, paths)
    if sum(counts.values()) == len(rows):
        raise DataError(
            f"all {len(rows)} recordings of {config.manifest} were rejected; see "
            f"{config.output / 'rejected.jsonl'}"
        )
    return TokenizeResult(
        shards=len(paths),
        records=records,
        hours=seconds / 3600,
        skipped_shards=skipped,
        rejected=counts,
    )


def _tokenize_rows(
    tokenizer: SpeechTokenizer, rows: Sequence[ManifestRow], pool: ThreadPoolExecutor
) -> tuple[list[CodeRecord], list[dict[str, str]]]:
    """Records in the order of the rows, and entries for those set aside."""
    usable: list[tuple[ManifestRow, np.ndarray]] = []
    rejected = []
    for row, audio in zip(rows, pool.map(_read_or_error, rows), strict=True):
        if isinstance(audio, AudioError):
            rejected.append({"id": row.id, "reason": audio.reason, "detail": str(audio)})
        else:
            usable.append((row, audio))
    codes = tokenizer.encode([audio for _, audio in usable])
    records = [
        CodeRecord(
            id=row.id,
            codes=found,
            text=row.text or None,
            language=row.language or None,
            duration_s=len(audio) / SAMPLE_RATE_HZ,
            speaker=row.speaker or None,
        )
        for (row, audio), found in zip(usable, codes, strict=True)
    ]
    return records, rejected


def _read_or_error(row: ManifestRow) -> np.ndarray | AudioError:
    try:
        return read_audio(row.path)
    except AudioError as error:
        return error


def _speed(audio_s: float, started: float) -> str:
    return f"{audio_s / max(time.monotonic() - started, 1e-9):.0f} x real time"


def _check_same_job(config: TokenizeConfig, info: CodeShardInfo) -> None:
    """Refuse an output folder begun with another manifest, shard size or tokenizer."""
    job = {
        "manifest": fingerprint_of_files(config.manifest),
        "shard_size": config.shard_size,
        "speech tokenizer": info.tokenizer_fingerprint,
    }
    path = config.output / _JOB
    if not path.exists():
        if shards := sorted(config.output.glob("*.parquet")):
            raise DataError(f"{shards[0]} does not belong to this job; choose an empty --output")
        write_json(path, job)
        return
    begun = read_json(path)
    for name, value in job.items():
        if begun.get(name) != value:
            raise DataError(
                f"{config.output} was begun with {name} {begun.get(name)}, this job has {value}; "
                "choose an empty --output"
            )


def _merge_rejected(output: Path, paths: Sequence[Path]) -> dict[str, int]:
    """Write `rejected.jsonl` from the shards' parts and count by reason."""
    text = "".join((output / _PARTS / f"{path.stem}.jsonl").read_text("utf-8") for path in paths)
    write_text(output / "rejected.jsonl", text)
    return dict(Counter(json.loads(line)["reason"] for line in text.splitlines()))
