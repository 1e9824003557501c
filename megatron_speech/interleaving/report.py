"""One page on what an interleaved dataset has become: tokens, spans, rejections, speed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import pages
from ..io.files import read_json_object, write_text
from ..io.parquet import open_parquet, read_batches
from .units import UNITS

_ROWS_AT_A_TIME = 1 << 14


def write_report(
    path: Path,
    facts: Mapping[str, Any],
    generation: Mapping[str, Any],
    plan: Path,
    seconds: Mapping[str, float],
    workers: int,
) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        facts: contents of `<prefix>.json`.
        generation: counts the generate job returned.
        plan: folder of the plan job.
        seconds: wall time of each job in this run (a job found done takes next to none).
        workers: processes of each job.
    """
    planned = read_json_object(plan / "plan.json", spans=dict)
    lengths = span_lengths(plan)
    spans = max(int(lengths.sum()), 1)
    page = pages.render(
        pages.HERE / "interleaved.html",
        title=path.name.removesuffix(".report.html"),
        facts=facts,
        generation=generation,
        planned=planned,
        seconds=seconds,
        workers=workers,
        lengths_count=spans,
        lengths_mean=float(np.dot(np.arange(len(lengths)), lengths) / spans),
        lengths_picture=_histogram(lengths / spans, planned["spans"]),
    )
    write_text(path, page)


def span_lengths(plan: Path) -> np.ndarray:
    """How many planned spans have n units, (longest + 1,), from the plans of all tasks.

    Raises:
        DataError: a plan is damaged.
    """
    counts = np.zeros(1, np.int64)
    for path in sorted((plan / "plans").glob("*.parquet")):
        batches = read_batches(open_parquet(path), path, _ROWS_AT_A_TIME, ["span_words"])
        for batch in batches:
            found = np.bincount(batch["span_words"].flatten().to_numpy())
            size = max(len(found), len(counts))
            counts = np.pad(counts, (0, size - len(counts))) + np.pad(found, (0, size - len(found)))
    return counts


def _histogram(shares: np.ndarray, spans: Mapping[str, Any]) -> str:
    """Bars of the lengths found and, for spans of words, dots where Poisson would have them."""
    shares = shares[1:] if len(shares) > 1 else np.zeros(1)
    numbers, drawn, note = np.arange(1, len(shares) + 1), np.zeros(0), ""
    if UNITS[spans["unit"]].draws_words:
        rate = spans["mean_span_words"]
        drawn = np.exp([n * math.log(rate) - rate - math.lgamma(n + 1) for n in numbers])
        shortest, longest = spans["min_span_words"], spans["max_span_words"] or numbers[-1]
        drawn *= (numbers >= shortest) & (numbers <= longest)
        drawn /= max(drawn.sum(), 1e-12)  # lengths that do not occur are drawn again
        note = f"Poisson({rate:g})"
    label = "Lengths of the spans"
    return pages.charts.length_histogram(shares, "words in a span", label, drawn.tolist(), note)
