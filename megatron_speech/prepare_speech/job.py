"""The job: shards by any number of tasks, resumable at any instant, then one manifest and report.

Files in the output folder:
    manifest.parquet      segments that are kept (once all shards are there)
    audio/shard_000000/   their sound, FLAC of 16 kHz
    rejected.jsonl        segments and recordings set aside: id, reason, detail
    report.html           hours in and out, why not, samples to hear
    summary.json          the same figures
    parts/, job.json      what each shard has come to, and what the job was begun with
"""

import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..data.turned_up import DUE_AGAIN, mark_judged
from ..errors import DataError
from ..io.files import is_abandoned, read_json_object, write_json
from ..io.parquet import read_parquet, write_parquet
from ..io.rejected import Rejected, count_reasons, describe_counts, write_rejected
from ..jobs.claims import exclusive
from ..jobs.folders import same_job
from ..jobs.progress import Progress
from .config import PrepareConfig, PreparePlan
from .duplicates import find_repeats
from .readers import FasterWhisperReader, Reader, WhisperReader
from .report import write_report
from .shard import KEPT, Heard, Readers, hear
from .voice_activity import VoiceActivity

_TEXTS = ("id", "path", "recording", "text", "speaker", "language", "license", "consent", "reading",
          "second_reading", "status", "detail")  # fmt: skip
_FIGURES = ("start_s", "duration_s", "speech_share", "clipped", "snr_db", "peak", "log_probability",
            "language_probability", "no_speech", "disagreement", "repetition")  # fmt: skip
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _TEXTS),
        *((name, pa.float64()) for name in _FIGURES),
        ("marks", pa.list_(pa.uint32())),
        ("frames", pa.list_(pa.uint16())),
    ]
)
_IN_MANIFEST = ("id", "path", "text", "speaker", "language", "duration_s", "license", "consent",
                "recording", "start_s", "log_probability", "language_probability", "disagreement",
                "speech_share", "snr_db")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PrepareResult:
    """What one task did, and what the whole job has come to."""

    shards: int
    seconds: float
    """Audio that this task heard in this call."""
    wall_s: float
    missing_shards: int = 0
    """Shards that other tasks have yet to make."""
    summary: dict[str, Any] = field(default_factory=dict)
    """Figures of the whole job, once all shards are there."""

    def __str__(self) -> str:
        speed = self.seconds / max(self.wall_s, 1e-9)
        text = f"{self.seconds / 3600:.2f} h in this call, {speed:.1f} x real time; "
        if self.missing_shards:
            return text + f"{self.missing_shards:,} shards are still to be made by other tasks"
        found = self.summary
        return text + (
            f"in all {found['hours']:.2f} h, of speech {found['speech_hours']:.2f} h, kept "
            f"{found['kept_hours']:.2f} h in {found['kept']:,} segments; set aside: "
            f"{describe_counts(found['rejected'])}"
        )


def prepare(plan: PreparePlan) -> PrepareResult:
    """Make this task's shards; with the last of all, manifest and report.

    Raises:
        ConfigError: the output folder was begun with other input or settings; no voice activity.
        CheckpointError: no Whisper in a folder.
        DataError: nothing was kept.
        InUseError: another process works on this task.
    """
    output, started, seconds = plan.config.output, time.monotonic(), 0.0
    with exclusive(output / str(plan.share)):
        begun, settings = output / "job.json", plan.settings()
        if begun.exists():
            same_job(begun, settings)
        again = plan.due_again()
        due = [n for n in plan.own if n in again or not plan.paths[n].exists()]
        readers = _readers(plan.config) if due else None
        same_job(begun, settings)  # only now: what cannot be read must not own the folder
        if again:
            print(f"{len(again):,} shards {DUE_AGAIN}", file=sys.stderr)
        for number in again:  # before what they set aside is written anew
            plan.paths[number].unlink(missing_ok=True)
        if readers is not None:
            with Progress("preparing speech", len(due), "shards") as progress:
                for number in due:
                    seconds += _make_shard(plan, number, readers)
                    speed = seconds / max(time.monotonic() - started, 1e-9)
                    progress.advance(1, f"{seconds / 3600:.2f} h, {speed:.1f} x real time")
        missing = sum(not path.exists() for path in plan.paths)
        return PrepareResult(
            shards=len(plan.paths),
            seconds=seconds,
            wall_s=time.monotonic() - started,
            missing_shards=missing,
            summary={} if missing else _finish(plan),
        )


def _readers(config: PrepareConfig) -> Readers:
    dtype = torch.bfloat16 if config.bf16 else torch.float32
    first: Reader
    if config.engine == "faster-whisper":
        first = FasterWhisperReader(Path(config.whisper), config.device)
    else:
        first = WhisperReader(config.whisper, config.device, config.batch_seconds, dtype)
    second = first
    if config.second_whisper is not None:
        second = WhisperReader(config.second_whisper, config.device, config.batch_seconds, dtype)
    return Readers(VoiceActivity.from_package(), first, second)


def _make_shard(plan: PreparePlan, number: int, readers: Readers) -> float:
    recordings, rejected = plan.read_shard(number)
    part, begun_s = plan.paths[number], time.time()
    audio = plan.config.output / "audio" / part.stem
    found = hear(recordings, readers, plan.config, audio)
    found.rejected[:0] = rejected
    facts = asdict(Heard(recordings=found.recordings, seconds=found.seconds))
    facts |= {"speech_s": found.speech_s, "rejected": [vars(item) for item in found.rejected]}
    write_json(plan.rejected_path(number), facts)
    mark_judged(plan.rejected_path(number), begun_s)
    write_parquet(part, pa.Table.from_pylist(found.rows, _SCHEMA))
    for stopped in filter(is_abandoned, audio.glob(".*.part")):
        stopped.unlink(missing_ok=True)
    return found.seconds


def _finish(plan: PreparePlan) -> dict[str, Any]:
    """Manifest, list of what was set aside, and report; several tasks write the same."""
    output, keep = plan.config.output, plan.config.keep
    tables = [read_parquet(path) for path in plan.paths]
    table = pa.concat_tables([_SCHEMA.empty_table(), *tables])
    facts = [read_json_object(path.with_suffix(".json")) for path in plan.paths]
    rejected = list(plan.recordings.rejected)
    for each in facts:
        rejected += [Rejected(**item) for item in each["rejected"]]
    rows = table.drop_columns(["marks", "frames"]).to_pylist()
    kept = [n for n, row in enumerate(rows) if row["status"] == KEPT]
    for later, earlier in _repeats(table, kept, keep.repeated_share).items():
        detail = f"the sound of {rows[earlier]['id']}"
        rows[later] |= {"status": "duplicate", "detail": detail}
    for row in rows:
        if row["status"] != KEPT:
            rejected.append(Rejected(row["id"], row["status"], row["detail"]))
    chosen = [row for row in rows if row["status"] == KEPT]
    write_rejected(output / "rejected.jsonl", rejected)
    if not chosen:
        raise DataError(
            f"all {len(rejected):,} segments and recordings were set aside "
            f"({describe_counts(count_reasons(rejected))}); see {output / 'rejected.jsonl'}"
        )
    summary = _summary(rows, rejected, facts)
    write_json(output / "summary.json", summary)
    write_report(output / "report.html", summary, rows, keep)
    schema = pa.schema([_SCHEMA.field(name) for name in _IN_MANIFEST])
    columns = [{name: row[name] for name in _IN_MANIFEST} for row in chosen]
    write_parquet(output / "manifest.parquet", pa.Table.from_pylist(columns, schema))
    return summary


def _repeats(table: pa.Table, kept: list[int], share: float) -> dict[int, int]:
    found = table.select(["marks", "frames"]).take(pa.array(kept, pa.int64()))
    marks, frames = (
        [np.asarray(value.values) for value in found[name]] for name in ("marks", "frames")
    )
    repeats = find_repeats(marks, frames, share)
    return {kept[later]: kept[earlier] for later, earlier in repeats.items()}


def _summary(
    rows: list[dict[str, Any]], rejected: list[Rejected], facts: list[dict[str, Any]]
) -> dict[str, Any]:
    kept = [row for row in rows if row["status"] == KEPT]
    hours: dict[str, float] = {}
    languages: dict[str, float] = {}
    for row in rows:
        hours[row["status"]] = hours.get(row["status"], 0.0) + row["duration_s"] / 3600
    for row in kept:
        name = row["language"] or "unknown"
        languages[name] = languages.get(name, 0.0) + row["duration_s"] / 3600
    return {
        "recordings": sum(each["recordings"] for each in facts),
        "hours": sum(each["seconds"] for each in facts) / 3600,
        "speech_hours": sum(each["speech_s"] for each in facts) / 3600,
        "segments": len(rows),
        "kept": len(kept),
        "kept_hours": hours.pop(KEPT, 0.0),
        "rejected": count_reasons(rejected),
        "rejected_hours": dict(sorted(hours.items())),
        "languages": dict(sorted(languages.items(), key=lambda item: (-item[1], item[0]))),
    }
