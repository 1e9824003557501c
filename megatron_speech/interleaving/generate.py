"""Job 2, generate: request shards -> code shards, one for one.

    <output>/settings.json            plan, model, engine settings and gates the work was begun with
    <output>/<shard>.parquet          code shard, records in the order of the requests
    <output>/reports/<shard>.parquet  for each request its batch, the word errors the self-check
                                      counted and, if rejected, the reason and the codes
    <output>/losers/<shard>.parquet   with --best-of: of each text a worse sample, if there was one,
                                      as a code shard
    <output>/generation.json          counts, written when every shard is there
    <output>/rejected.jsonl           what was rejected

A shard that exists is finished. A rejected request keeps its place with no codes.
"""

import functools
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..data.code_shards import (
    CodeShardInfo,
    find_shards,
    read_shard_info,
)
from ..errors import ConfigError, DataError, VocabularyError
from ..io.files import fingerprint_of_files, write_json
from ..io.parquet import open_parquet, read_parquet
from ..io.rejected import Rejected, write_rejected
from ..jobs.executors import ClusterConfig, Place, sole_job
from ..jobs.folders import same_job
from ..jobs.progress import Progress
from ..jobs.tasks import Share, worker_number
from ..text_to_token.choose_engine import make_engine
from ..text_to_token.engines import Engine, EngineConfig, Identity, identify, voice_of
from ..text_to_token.gates import GateConfig, Gates
from ..text_to_token.self_check import SelfCheck
from .best_of import BestOfConfig, samples_made
from .make_codes import Maker, generate_shard, read_report
from .plan_folder import request_paths


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """How texts become codes."""

    model: Path
    """Exported text-to-token model."""
    like: Path
    """A code shard (or folder of them) of the speech the model was trained on: it names the
    speech tokenizer and its frame rate, and the gates are measured on it."""
    workers: int = 1
    """Processes on this machine; each loads the model, on a GPU of its own while there are any."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    gates: GateConfig = field(default_factory=GateConfig)
    best: BestOfConfig = field(default_factory=BestOfConfig)

    def __post_init__(self) -> None:
        if self.best.best_of > 1 and (self.gates.self_check is None or not self.engine.temperature):
            raise ConfigError(
                f"--best-of {self.best.best_of} chooses among different samples by their word "
                "errors: give --self-check, the speech tokenizer that counts them, and a "
                "--temperature above 0 (0.7, say)"
            )


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(GenerateSettings):
    """Request shards to code shards."""

    plan: Path
    """Folder written by the plan job."""
    output: Path
    """Folder for code shards."""
    shard_offset: int = 0
    """First shard this run takes, for several machines side by side."""
    shard_step: int = 1
    """Takes every n-th shard from the first: the number of machines."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cluster.executor == "local":
            self.engine.require_here()
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
        InUseError: another process takes the same shards.
    """
    share = f"shards-{config.shard_offset}-of-{config.shard_step}"
    with sole_job(config.output / share, config.cluster):
        return _generate(config, engine)


def _generate(config: GenerateConfig, engine: Engine | None) -> dict[str, Any]:
    shards = request_paths(config.plan)
    info = read_shard_info(find_shards(config.like)[0])
    started = time.monotonic()
    mine = Share(config.shard_offset, config.shard_step).of(shards)
    waiting = [path for path in mine if not (config.output / path.name).exists()]
    spread = config.workers > 1 or config.cluster.executor != "local"
    if waiting and spread and engine is None:
        tasks = [_Shard(path, config) for path in waiting]
        threads = max(1, (os.cpu_count() or 1) // config.workers)
        place = Place.of(generate, config, config.output / "logs")
        place.run(
            _generate_in_worker,
            tasks,
            workers=config.workers,
            description="generate",
            threads_per_worker=threads,
        )
    elif waiting:
        maker = _make(config, engine or make_engine(config.model, config.engine))
        rows = [open_parquet(path).metadata.num_rows for path in waiting]
        samples = config.best.best_of
        unit = "spans" if samples == 1 else "samples"
        with Progress("generate", samples * sum(rows), unit) as progress:
            for path in waiting:
                generate_shard(path, maker, config.output, progress.advance)
    else:  # all is there: of this very model?
        _claim(config, engine or identify(config.model, config.engine), _gates(config, info), info)
    counts = _summarise(config, shards, info)
    if config.best.best_of > 1 and waiting:
        made = samples_made(config.output, [path.name for path in waiting])
        seconds = time.monotonic() - started
        cost = {"seconds": seconds, "codes_per_s": made["codes"] / seconds}
        counts["this_run"] = {"samples": made["samples"], "codes": made["codes"], **cost}
    return counts


def _gates(config: GenerateConfig, info: CodeShardInfo) -> Gates:
    return Gates(config.gates, config.like, info.frame_rate_hz)


def _make(config: GenerateConfig, engine: Engine) -> Maker:
    """All that is needed, the output folder claimed for it."""
    info = read_shard_info(find_shards(config.like)[0])
    gates, check = _gates(config, info), None
    _claim(config, engine, gates, info)
    if config.gates.self_check is not None:
        fingerprint, language = info.tokenizer_fingerprint, config.engine.language
        check = SelfCheck(config.gates.self_check, fingerprint, language, config.engine.device)
    maker = Maker(engine, info, gates, check, config.gates.most_word_errors)
    if config.best.best_of == 1:
        return maker
    return replace(maker, best=config.best, speaker=lambda seed: voice_of(seed, config.engine))


@functools.lru_cache(maxsize=1)
def _worker(config: GenerateConfig) -> Maker:
    import torch

    device = device_of_worker(config.engine.device, worker_number(), torch.cuda.device_count())
    engine = replace(config.engine, device=device)
    return _make(replace(config, engine=engine), make_engine(config.model, engine))


def device_of_worker(device: str, worker: int, gpus: int) -> str:
    """The GPU of a worker: they share a machine's in turn, unless one was named."""
    return f"cuda:{worker % gpus}" if gpus and device in ("auto", "cuda") else device


def _generate_in_worker(shard: _Shard) -> None:
    if (shard.config.output / shard.requests.name).exists():
        return
    maker = _worker(shard.config)
    generate_shard(shard.requests, maker, shard.config.output, lambda count: None)


def _claim(
    config: GenerateConfig, engine: Engine | Identity, gates: Gates, info: CodeShardInfo
) -> None:
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
    checked = config.gates.self_check is not None
    best = config.best
    same_job(
        config.output / "settings.json",
        {
            "plan": fingerprint_of_files(config.plan / "plan.json"),
            "generator_fingerprint": best.fingerprint(engine.fingerprint),
            "tokenizer_fingerprint": info.tokenizer_fingerprint,
            "gates": asdict(config.gates) | {"self_check": checked},
            "bounds": asdict(gates.bounds) if gates.bounds else None,
            **(asdict(best) if best.best_of > 1 else {}),
        },
    )


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
    if config.best.best_of > 1:
        counts["best_of"] = samples_made(config.output, done)
    if len(done) == len(shards):
        write_rejected(config.output / "rejected.jsonl", rejected)
        write_json(config.output / "generation.json", counts)
    return counts
