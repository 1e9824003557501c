"""Bulk tokenization: audio in, code shards out, by any number of tasks, resumable at any instant.

Files in the output folder:
    shard_000000.parquet ...   code shards, whole or not there
    rejected.jsonl             recordings set aside: id, reason, detail (once all shards are there)
    job.json                   what the job was begun with
    .rejected/                 what the shards set aside, for rejected.jsonl
"""

import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ...audio import SAMPLE_RATE_HZ
from ...data.code_shards import CodeRecord, CodeShardInfo, write_code_shard
from ...data.recording import Recording
from ...data.turned_up import DUE_AGAIN, mark_judged
from ...errors import AudioError, DataError
from ...io.files import is_abandoned
from ...io.parquet import open_parquet
from ...io.rejected import Rejected, describe_counts, read_rejected, write_rejected
from ...jobs.claims import exclusive
from ...jobs.folders import same_job
from ...jobs.progress import Progress
from ..tokenizer import SpeechTokenizer
from .encoding import SORTED_BATCHES, ShardEncoder
from .plan import TokenizePlan
from .reading import ReadAhead, read_windows


@dataclass(frozen=True, kw_only=True)
class TokenizeResult:
    """What one task did, and what the whole job has come to."""

    shards: int
    """Shards of the job."""
    records: int
    """Recordings tokenized by this task in this call."""
    hours: float
    """Audio tokenized by this task in this call."""
    skipped_shards: int
    """Shards that were there before, or were made by others."""
    missing_shards: int = 0
    """Shards that other tasks have yet to make."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Recordings set aside in the whole job by reason, once all shards are there."""

    def __str__(self) -> str:
        text = (
            f"{self.shards:,} shards ({self.skipped_shards:,} made before or by others), "
            f"{self.records:,} recordings, {self.hours:.2f} h; "
        )
        if self.missing_shards:
            return text + f"{self.missing_shards:,} shards are still to be made by other tasks"
        return text + f"set aside: {describe_counts(self.rejected)}"


@dataclass(eq=False)
class _Shard:
    """A shard in progress."""

    number: int
    recordings: list[Recording]
    rejected: list[Rejected]
    samples: dict[int, int] = field(default_factory=dict)
    begun_s: float = field(default_factory=time.time)


_Item = tuple[_Shard, int | None]  # a recording by its number, or the shard's end


def tokenize(plan: TokenizePlan) -> TokenizeResult:
    """Make this task's shards.

    Raises:
        DataError: shards of no job in the output folder, or a job in which every recording was
            rejected.
        ConfigError: the output folder was begun with other input or settings.
        InUseError: another process works on this task.
    """
    config = plan.config
    device = config.device
    if device == "cuda" and torch.cuda.device_count() > 1:
        device = f"cuda:{plan.share.local % torch.cuda.device_count()}"
    tokenizer = SpeechTokenizer.from_pretrained(
        config.speech_tokenizer, device, getattr(torch, config.dtype)
    )
    info = CodeShardInfo(
        frame_rate_hz=tokenizer.frame_rate_hz,
        num_codes=tokenizer.num_codes,
        tokenizer_fingerprint=tokenizer.fingerprint,
    )
    with exclusive(config.output / str(plan.share)):
        _check_same_job(plan, info)
        _reopen(plan)
        with _Meter(plan) as meter, closing(_encoded_shards(plan, tokenizer, meter)) as encoded:
            made = 0
            for shard, records in encoded:
                rejected = plan.rejected_path(shard.number)
                if write_rejected(rejected, shard.rejected):
                    mark_judged(rejected, shard.begun_s)
                write_code_shard(plan.paths[shard.number], records, info)
                made += 1
        return _close_job(plan, meter, made)


def _encoded_shards(
    plan: TokenizePlan, tokenizer: SpeechTokenizer, meter: "_Meter"
) -> Generator[tuple[_Shard, list[CodeRecord]]]:
    """Read and encode shards; while one is encoded the next is being read."""
    config, window_samples = plan.config, tokenizer.config.window_samples
    encoder = ShardEncoder(tokenizer, config.batch_samples)

    def windows(item: _Item):
        shard, number = item
        return () if number is None else read_windows(shard.recordings[number], window_samples)

    most = SORTED_BATCHES * config.batch_samples
    ahead = ReadAhead(_items(plan), windows, config.num_workers, most)
    with closing(ahead):
        for (shard, number), found in ahead:
            if number is None:
                yield shard, _records(shard, encoder)
            elif isinstance(found, AudioError):
                name = shard.recordings[number].id
                shard.rejected.append(Rejected(name, found.reason, str(found)))
                shard.samples.pop(number, None)
                meter.recording_is_read(shard, 0)
            elif found is None:
                meter.recording_is_read(shard, shard.samples[number])
            else:
                shard.samples[number] = shard.samples.get(number, 0) + len(found)
                encoder.add(number, found)


def _items(plan: TokenizePlan) -> Iterator[_Item]:
    for number in plan.own:
        if plan.paths[number].exists():
            continue
        shard = _Shard(number, *plan.read_shard(number))
        for place in range(len(shard.recordings)):
            yield shard, place
        yield shard, None


def _records(shard: _Shard, encoder: ShardEncoder) -> list[CodeRecord]:
    """Records in the order of the recordings, without those that were set aside."""
    codes = encoder.finish()
    found = ((number, shard.recordings[number]) for number in sorted(shard.samples))
    return [
        CodeRecord(
            id=recording.id,
            codes=codes[number],
            text=recording.text or None,
            language=recording.language or None,
            duration_s=shard.samples[number] / SAMPLE_RATE_HZ,
            speaker=recording.speaker or None,
        )
        for number, recording in found
    ]


class _Meter:
    """Progress and speed of this task; one of a node shows it."""

    def __init__(self, plan: TokenizePlan):
        self.records, self.seconds = 0, 0.0
        self._plan, self._in_clips = plan, not plan.recordings.archives
        total = sum(self._size(number) for number in plan.own if not plan.paths[number].exists())
        unit = "clips" if self._in_clips else "shards"
        self._progress = Progress("tokenizing speech", total, unit)
        self._shown = self._progress if plan.share.local == 0 else nullcontext()
        self._started = time.monotonic()

    def __enter__(self) -> "_Meter":
        self._shown.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._shown.__exit__(*exception)

    def recording_is_read(self, shard: _Shard, samples: int) -> None:
        """Count a recording; without samples it was set aside."""
        self.records += samples > 0
        self.seconds += samples / SAMPLE_RATE_HZ
        if self._plan.share.local == 0:
            speed = self.seconds / max(time.monotonic() - self._started, 1e-9)
            note = f"{self.seconds / 3600:.2f} h, {speed:,.0f} x real time"
            self._progress.advance(self._size(shard.number) / len(shard.recordings), note)

    def _size(self, number: int) -> float:
        size = self._plan.config.shard_size
        left = len(self._plan.recordings.listed) - number * size
        return min(size, left) if self._in_clips else 1


def _check_same_job(plan: TokenizePlan, info: CodeShardInfo) -> None:
    """Refuse an output folder begun with other input or settings on which the bytes depend."""
    config = plan.config
    job = {
        "input": plan.recordings.fingerprint,
        "shard_size": config.shard_size,
        "batch_seconds": config.batch_seconds,
        "dtype": config.dtype,
        "speech tokenizer": info.tokenizer_fingerprint,
    }
    path = config.output / "job.json"
    shards = sorted(config.output.glob("*.parquet"))  # before: another task may begin meanwhile
    if shards and not path.exists():
        raise DataError(f"{shards[0]} does not belong to this job; choose an empty --output")
    same_job(path, job)


def _reopen(plan: TokenizePlan) -> None:
    """Remove the shards that are due again, so that they are made like those never made.

    Before their lists of what was set aside change: a kill between the two would leave a shard
    that lacks recordings, and nothing that says so.
    """
    if again := plan.due_again():
        print(f"{len(again):,} shards {DUE_AGAIN}", file=sys.stderr)
        (plan.config.output / "rejected.jsonl").unlink(missing_ok=True)
        for number in again:
            plan.paths[number].unlink(missing_ok=True)


def _close_job(plan: TokenizePlan, meter: _Meter, made: int) -> TokenizeResult:
    """Write `rejected.jsonl` if all shards are there; several tasks write the same."""
    output, paths = plan.config.output, plan.paths
    missing = sum(not path.exists() for path in paths)
    counts: dict[str, int] = {}
    if not missing:
        rejected = list(plan.recordings.rejected)
        for number in range(len(paths)):
            part = plan.rejected_path(number)
            if part.exists():
                rejected += read_rejected(part)
        counts = write_rejected(output / "rejected.jsonl", rejected)
        _remove_leftovers(output)
        if not any(open_parquet(path).metadata.num_rows for path in paths):
            raise DataError(
                f"all {len(rejected):,} recordings were rejected ({describe_counts(counts)}); see "
                f"{output / 'rejected.jsonl'}"
            )
    return TokenizeResult(
        shards=len(paths),
        records=meter.records,
        hours=meter.seconds / 3600,
        skipped_shards=len(paths) - made - missing,
        missing_shards=missing,
        rejected=counts,
    )


def _remove_leftovers(output: Path) -> None:
    """What killed tasks left behind."""
    for pattern in (".shard_*.part", ".rejected/.shard_*.part"):
        for stopped in filter(is_abandoned, output.glob(pattern)):
            stopped.unlink(missing_ok=True)
