"""Job 2, generate: request shards -> code shards, one for one.

    <output>/settings.json            plan, model, engine settings and gates the work was begun with
    <output>/<shard>.parquet          code shard, records in the order of the requests
    <output>/reports/<shard>.parquet  for each request its batch and, if rejected, the reason
    <output>/generation.json          counts, written when every shard is there
    <output>/rejected.jsonl           what was rejected

A shard that exists is finished. A rejected request keeps its place with no codes.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.code_shards import (
    CodeRecord,
    CodeShardInfo,
    find_shards,
    read_shard_info,
    write_code_shard,
)
from ..errors import ConfigError, DataError, VocabularyError
from ..files import fingerprint_of_files, write_json
from ..parquet import open_parquet, read_parquet, write_parquet
from ..progress import Progress
from ..rejected import Rejected, write_rejected
from .engines import Engine, EngineConfig, Identity, TransformersEngine, identify
from .gates import GateConfig, most_codes, reject_reason
from .plan import request_paths
from .tasks import claim_folder, run_tasks

_REPORT_SCHEMA = pa.schema({"id": pa.string(), "batch": pa.int32(), "reason": pa.string()})


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Request shards to code shards."""

    plan: Path
    """Folder written by the plan job."""
    model: Path
    """Exported text-to-token model."""
    like: Path
    """A code shard (or folder of them) of the speech the model was trained on: it names the
    speech tokenizer and its frame rate."""
    output: Path
    """Folder for code shards."""
    workers: int = 1
    """Processes on this machine; each loads the model."""
    shard_offset: int = 0
    """First shard this run takes, for several machines side by side."""
    shard_step: int = 1
    """Takes every n-th shard from the first: the number of machines."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    gates: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        if self.shard_step < 1 or not 0 <= self.shard_offset < self.shard_step:
            raise ConfigError("shard_step must be at least 1, shard_offset from 0 to shard_step-1")


@dataclass(frozen=True)
class _Shard:
    requests: Path
    config: GenerateConfig


def generate(config: GenerateConfig, engine: Engine | None = None) -> dict[str, Any]:
    """Make the code shards that are missing; return counts of the shards there are.

    `engine` replaces the transformers engine (then in this process only).

    Raises:
        DataError: no finished plan, no code shard to be like, or one of another speech tokenizer
            than the model's.
        VocabularyError: model and code shards have different codebooks.
        ConfigError: the output folder was begun with other settings.
    """
    shards = request_paths(config.plan)
    info = read_shard_info(find_shards(config.like)[0])
    mine = shards[config.shard_offset :: config.shard_step]
    waiting = [path for path in mine if not (config.output / path.name).exists()]
    if waiting and config.workers > 1 and engine is None:
        tasks = [_Shard(path, config) for path in waiting]
        threads = max(1, (os.cpu_count() or 1) // config.workers)
        run_tasks(
            _generate_in_worker,
            tasks,
            workers=config.workers,
            description="generate",
            threads_per_worker=threads,
        )
    elif waiting:
        engine = engine or TransformersEngine(config.model, config.engine)
        _claim(config, engine, info)
        rows = [open_parquet(path).metadata.num_rows for path in waiting]
        with Progress("generate", sum(rows), "spans") as progress:
            for path in waiting:
                generate_shard(path, engine, info, config, progress.advance)
    else:  # all is there: of this very model?
        _claim(config, engine or identify(config.model, config.engine), info)
    return _summarise(config, shards, info)


@functools.lru_cache(maxsize=1)
def _worker_engine(config: GenerateConfig) -> tuple[Engine, CodeShardInfo]:
    info = read_shard_info(find_shards(config.like)[0])
    engine = TransformersEngine(config.model, config.engine)
    _claim(config, engine, info)
    return engine, info


def _generate_in_worker(shard: _Shard) -> None:
    engine, info = _worker_engine(shard.config)
    generate_shard(shard.requests, engine, info, shard.config, lambda count: None)


def _claim(config: GenerateConfig, engine: Engine | Identity, info: CodeShardInfo) -> None:
    if engine.num_codes != info.num_codes:
        raise VocabularyError(
            f"{config.model} speaks {engine.num_codes} codes, but {config.like} was made by a "
            f"speech tokenizer with {info.num_codes}; they do not belong together"
        )
    known = engine.speech_tokenizer
    if known is not None and known != info.tokenizer_fingerprint:
        raise DataError(
            f"{config.like} was made by speech tokenizer {info.tokenizer_fingerprint}, but "
            f"{config.model} was trained on codes of {known}; give --like code shards of the "
            "speech the model was trained on"
        )
    claim_folder(
        config.output,
        {
            "plan": fingerprint_of_files(config.plan / "plan.json"),
            "generator_fingerprint": engine.fingerprint,
            "tokenizer_fingerprint": info.tokenizer_fingerprint,
            "gates": asdict(config.gates),
        },
    )


def generate_shard(
    path: Path,
    engine: Engine,
    info: CodeShardInfo,
    config: GenerateConfig,
    advance: Callable[[int], None],
) -> None:
    """Generate the codes of one request shard; the code shard appears last, whole."""
    requests = read_parquet(path, ("id", "text", "seed"))
    ids, texts = requests["id"].to_pylist(), requests["text"].to_pylist()
    results = engine.generate(
        texts,
        requests["seed"].to_pylist(),
        lambda text: most_codes(text, info.frame_rate_hz, config.gates),
        advance,
    )
    reasons = [
        "too_long"
        if result.too_long
        else reject_reason(text, result.codes, result.ended, info.frame_rate_hz, config.gates)
        for text, result in zip(texts, results, strict=True)
    ]
    nothing = np.zeros(0, np.int64)
    records = [
        CodeRecord(
            id=name,
            codes=nothing if reason else result.codes,
            text=text,
            duration_s=0.0 if reason else len(result.codes) / info.frame_rate_hz,
        )
        for name, text, result, reason in zip(ids, texts, results, reasons, strict=True)
    ]
    report = pa.Table.from_pydict(
        {"id": ids, "batch": [result.batch for result in results], "reason": reasons},
        _REPORT_SCHEMA,
    )
    write_parquet(config.output / "reports" / path.name, report)
    write_code_shard(config.output / path.name, records, info)


def read_report(codes: Path, name: str) -> tuple[list[int | None], list[str | None]] | None:
    """Batches and reasons of one code shard's records; None for shards of real recordings."""
    path = codes / "reports" / name
    if not path.exists():
        return None
    table = read_parquet(path, ("batch", "reason"))
    return table["batch"].to_pylist(), table["reason"].to_pylist()


def _summarise(config: GenerateConfig, shards: list[Path], info: CodeShardInfo) -> dict[str, Any]:
    done = [path.name for path in shards if (config.output / path.name).exists()]
    requests, codes = 0, 0
    rejected: list[Rejected] = []
    for name in done:
        table = read_parquet(config.output / name, ("id", "codes", "text"))
        requests += table.num_rows
        codes += len(table["codes"].combine_chunks().flatten()) if table.num_rows else 0
        report = read_report(config.output, name)
        if report is None:
            raise DataError(f"{config.output / name} has no report; remove it and generate again")
        ids, texts = table["id"].to_pylist(), table["text"].to_pylist()
        rejected += [
            Rejected(i, reason, text)
            for i, reason, text in zip(ids, report[1], texts, strict=True)
            if reason
        ]
    counts: dict[str, Any] = {
        "shards": len(done),
        "shards_missing": len(shards) - len(done),
        "requests": requests,
        "codes": codes,
        "seconds_of_speech": codes / info.frame_rate_hz,
        "rejected": dict(sorted(Counter(item.reason for item in rejected).items())),
    }
    if len(done) == len(shards):
        write_rejected(config.output / "rejected.jsonl", rejected)
        write_json(config.output / "generation.json", counts)
    return counts
