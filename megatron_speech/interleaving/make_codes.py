"""One request shard -> one code shard, and a report of what became of each request."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..data.code_shards import CodeRecord, CodeShardInfo, write_code_shard
from ..io.parquet import read_parquet, write_parquet
from ..text_to_token.engines import Engine, Generation
from ..text_to_token.gates import Gates
from ..text_to_token.self_check import SelfCheck
from .best_of import (
    SAMPLES_SCHEMA,
    Attempt,
    BestOfConfig,
    choose,
    losers,
    samples_columns,
)

_REPORT_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "batch": pa.int32(),
        "reason": pa.string(),
        "word_errors": pa.int32(),
        "words": pa.int32(),
        "rejected_codes": pa.list_(pa.int32()),
    }
)


@dataclass(frozen=True)
class Maker:
    """What makes a code shard of a request shard."""

    engine: Engine
    info: CodeShardInfo
    gates: Gates
    check: SelfCheck | None
    most_word_errors: float
    best: BestOfConfig = field(default_factory=BestOfConfig)
    speaker: Callable[[int], str | None] = lambda seed: None
    """Voice of a request by its seed: what the model was told, for training on what was kept."""


def generate_shard(path: Path, maker: Maker, output: Path, advance: Callable[[int], None]) -> None:
    """Generate the codes of one request shard; the code shard appears last, whole."""
    requests = read_parquet(path, ("id", "text", "seed"))
    ids, texts = requests["id"].to_pylist(), requests["text"].to_pylist()
    seeds = requests["seed"].to_pylist()
    attempts = [
        _attempt(maker, texts, seeds, sample, advance) for sample in range(maker.best.best_of)
    ]
    kept = choose(texts, attempts, maker.gates)
    results = [attempts[sample].results[n] for n, sample in enumerate(kept)]
    reasons = [attempts[sample].reasons[n] for n, sample in enumerate(kept)]
    heard = [attempts[sample].heard[n] for n, sample in enumerate(kept)]
    report = {
        "id": ids,
        "batch": [result.batch for result in results],
        "reason": reasons,
        "word_errors": [None if one is None else one[0] for one in heard],
        "words": [None if one is None else one[1] for one in heard],
        "rejected_codes": [
            result.codes if reason else None
            for result, reason in zip(results, reasons, strict=True)
        ],
    }
    schema = _REPORT_SCHEMA
    speakers = [maker.speaker(seed) for seed in seeds]
    if len(attempts) > 1:
        report |= samples_columns(attempts, kept)
        schema = pa.schema([*_REPORT_SCHEMA, *SAMPLES_SCHEMA])
        worse = losers(attempts, kept, maker.best.pair_margin)
        records = _records(maker, ids, texts, speakers, worse)
        found = [record for record in records if len(record.codes)]
        write_code_shard(output / "losers" / path.name, found, maker.info)
    good = [None if reason else result for result, reason in zip(results, reasons, strict=True)]
    write_parquet(output / "reports" / path.name, pa.Table.from_pydict(report, schema))
    records = _records(maker, ids, texts, speakers, good)
    write_code_shard(output / path.name, records, maker.info)


def _attempt(
    maker: Maker,
    texts: list[str],
    seeds: list[int],
    sample: int,
    advance: Callable[[int], None],
) -> Attempt:
    """One sample of all texts, looked at by the gates and read by the self-check."""
    more = {"sample": sample} if sample else {}  # an engine that cannot sample does without
    results = maker.engine.generate(texts, seeds, maker.gates.most_codes, advance, **more)
    reasons = _reasons(maker, texts, results)
    return Attempt(results, reasons, _self_check(maker, texts, results, reasons))


def _records(
    maker: Maker,
    ids: list[str],
    texts: list[str],
    speakers: list[str | None],
    results: list[Generation | None],
) -> list[CodeRecord]:
    """Records of a code shard; without codes where there is no result."""
    codes = [np.zeros(0, np.int64) if result is None else result.codes for result in results]
    return [
        CodeRecord(
            id=name,
            codes=own,
            text=text,
            duration_s=len(own) / maker.info.frame_rate_hz,
            speaker=speaker,
        )
        for name, text, own, speaker in zip(ids, texts, codes, speakers, strict=True)
    ]


def _reasons(maker: Maker, texts: list[str], results: list[Generation]) -> list[str | None]:
    found = maker.gates.reasons(texts, [r.codes for r in results], [r.ended for r in results])
    return [
        "too_long" if result.too_long else reason
        for result, reason in zip(results, found, strict=True)
    ]


def _self_check(
    maker: Maker, texts: list[str], results: list[Generation], reasons: list[str | None]
) -> list[tuple[int, int] | None]:
    """Word errors and words of what is not rejected yet; adds `misheard` to `reasons`."""
    heard: list[tuple[int, int] | None] = [None] * len(texts)
    if maker.check is None:
        return heard
    good = [n for n, reason in enumerate(reasons) if reason is None]
    counts = maker.check.word_errors([texts[n] for n in good], [results[n].codes for n in good])
    for n, (errors, words) in zip(good, counts, strict=True):
        heard[n] = errors, words
        if errors > maker.most_word_errors * words:
            reasons[n] = "misheard"
    return heard


def read_report(codes: Path, name: str) -> tuple[list[int | None], list[str | None]] | None:
    """Batches and reasons of one code shard's records; None for shards of real recordings."""
    path = codes / "reports" / name
    if not path.exists():
        return None
    table = read_parquet(path, ("batch", "reason"))
    return table["batch"].to_pylist(), table["reason"].to_pylist()
