"""Best of n: of several samples of a text the one that is understood best is kept.

Rejection sampling with the speech tokenizer's recogniser as the judge (the self-check). Of n
samples of which each is right with chance p, one is with 1 - (1 - p)^n; generating costs n times
as much. What is left over are pairs of a better and a worse sample of one text, for DPO.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import ConfigError
from ..io.files import fingerprint_of
from ..io.parquet import read_parquet
from ..text_to_token.engines import Generation
from ..text_to_token.gates import Gates

SAMPLES_SCHEMA = pa.schema(
    {
        "sample": pa.int32(),  # which one was kept
        "sample_errors": pa.list_(pa.int32()),  # null where the gates rejected it
        "sampled_codes": pa.int32(),  # of all samples together
    }
)
"""Columns that reports have beside the others where several samples were made."""


@dataclass(frozen=True, kw_only=True)
class BestOfConfig:
    """How many samples of each text are made."""

    best_of: int = 1
    """Samples of each text, of which the one with the fewest word errors is kept (of equals, the
    one of the most usual length); above 1 needs --self-check and a --temperature, and takes that
    many times as long."""
    pair_margin: int = 1
    """Word errors that a sample has at least more than the one kept, to be written beside it as
    what is to be avoided (folder losers of the output)."""

    def __post_init__(self) -> None:
        if self.best_of < 1 or self.pair_margin < 1:
            raise ConfigError("best_of and pair_margin must be at least 1")

    def fingerprint(self, engine: str) -> str:
        """Of a generator that keeps the best of what the engine with this fingerprint says."""
        return engine if self.best_of == 1 else fingerprint_of(engine, f"best of {self.best_of}")


@dataclass(frozen=True)
class Attempt:
    """One sample of each text of a request shard.

    `heard` are word errors and words, None where the gates rejected the codes or none were counted;
    `reasons` say why codes are not to be used.
    """

    results: list[Generation]
    reasons: list[str | None]
    heard: list[tuple[int, int] | None]


def choose(texts: Sequence[str], attempts: Sequence[Attempt], gates: Gates) -> list[int]:
    """For each text the number of the sample to keep.

    Samples that pass the gates go before others, fewer word errors before more, then the length
    nearest to what speech of such a text has on average (if that was measured), then the first.
    """

    def rank(text: int, number: int) -> tuple[bool, int, float, int]:
        heard, distance = attempts[number].heard[text], 0.0
        if heard is None:
            return True, 0, 0.0, number
        if gates.bounds is not None:
            count = len(attempts[number].results[text].codes)
            distance = abs(count - gates.bounds.length(texts[text]))
        return False, heard[0], distance, number

    return [min(rank(n, k) for k in range(len(attempts)))[-1] for n in range(len(texts))]


def losers(
    attempts: Sequence[Attempt], kept: Sequence[int], margin: int
) -> list[Generation | None]:
    """For each text the sample with the most word errors, if the one kept is good and has at least
    `margin` fewer. What the gates reject is not compared: it has no word errors."""
    found: list[Generation | None] = []
    for text, winner in enumerate(kept):
        read = [(own.heard[text], own.results[text]) for own in attempts]
        counted = [(heard[0], result) for heard, result in read if heard is not None]
        best, loser = attempts[winner].heard[text], None
        if best is not None and attempts[winner].reasons[text] is None:
            errors, worst = max(counted, key=lambda each: each[0])
            loser = worst if errors >= best[0] + margin else None
        found.append(loser)
    return found


def samples_columns(attempts: Sequence[Attempt], kept: Sequence[int]) -> dict[str, list[Any]]:
    """Columns of SAMPLES_SCHEMA."""
    texts = range(len(kept))
    heard = [[own.heard[text] for own in attempts] for text in texts]
    return {
        "sample": list(kept),
        "sample_errors": [[None if one is None else one[0] for one in own] for own in heard],
        "sampled_codes": [sum(len(own.results[text].codes) for own in attempts) for text in texts],
    }


def samples_made(codes: Path, names: Iterable[str]) -> dict[str, Any]:
    """What several samples cost and brought, over some code shards of the folder.

    Word error rates are of the first samples and of those kept, over the texts of which both could
    be read.
    """
    total = dict.fromkeys(("requests", "samples", "codes", "changed", "pairs"), 0)
    counted = np.zeros(3, np.int64)
    for name in names:
        columns = ("sample", "sample_errors", "sampled_codes", "words")
        report = read_parquet(codes / "reports" / name, columns)
        total["codes"] += sum(report["sampled_codes"].to_pylist())
        total["pairs"] += read_parquet(codes / "losers" / name, ("id",)).num_rows
        kept, words = report["sample"].to_pylist(), report["words"].to_pylist()
        for sample, errors, count in zip(
            kept, report["sample_errors"].to_pylist(), words, strict=True
        ):
            total["requests"] += 1
            total["samples"] += len(errors)
            total["changed"] += sample != 0
            if errors[0] is not None and count is not None:
                counted += errors[0], errors[sample], count
    first, best, words = counted.tolist()
    rates = {"wer_first": first / words, "wer_kept": best / words} if words else {}
    return {**total, "changed": total["changed"] / max(total.pop("requests"), 1), **rates}
