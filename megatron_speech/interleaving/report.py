"""One page on what an interleaved dataset has become: tokens, spans, rejections, speed."""

import html
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..io.files import read_json_object, write_text
from ..io.parquet import open_parquet, read_batches
from .units import UNITS

_ROWS_AT_A_TIME = 1 << 14
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse}}td,th{{padding:.2rem .8rem;border-bottom:1px solid #ddd;
text-align:right}}td:first-child,th:first-child{{text-align:left}}svg{{max-width:100%;height:auto}}
</style></head><body><h1>{title}</h1>{sections}</body></html>
"""


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
    sections = [
        "<h2>Tokens</h2>",
        _table(("", "tokens", "share"), _token_rows(facts)),
        f"<p>{facts['documents']:,} documents; {100 * facts['speech_word_fraction']:.1f}% of "
        f"{facts['words']:,} words are spoken, in {facts['spans']:,} spans.</p>",
        "<h2>Lengths of the planned spans</h2>",
        _histogram(lengths, planned["spans"]),
        "<h2>What stayed text</h2>",
        _table(("reason", "spans", "of all asked"), _rejection_rows(facts, planned)),
        "<h2>What was no document</h2>",
        _table(("reason", "records"), _counts(planned["rejected"])),
        "<h2>Speed in this run</h2>",
        _table(
            ("job", "seconds", "rate", "hours of a process"),
            _speed_rows(facts, planned, generation, seconds, workers),
        ),
        f"<p>{workers} processes. A job whose work was done before takes next to no time.</p>",
    ]
    title = html.escape(path.name.removesuffix(".report.html"))
    write_text(path, _PAGE.format(title=title, sections="\n".join(sections)))


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


def _token_rows(facts: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    total = max(facts["text_tokens"] + facts["speech_tokens"], 1)
    for name in ("text", "speech"):
        tokens = facts[f"{name}_tokens"]
        yield name, f"{tokens:,}", f"{100 * tokens / total:.1f}%"
    yield "all", f"{total:,}", "100%"


def _rejection_rows(
    facts: Mapping[str, Any], planned: Mapping[str, Any]
) -> Iterable[tuple[str, ...]]:
    asked = max(planned["requests"], 1)
    for reason, count in facts["rejected"].items():
        yield reason, f"{count:,}", f"{100 * count / asked:.2f}%"
    yield "nothing to say (never asked)", f"{facts['not_speakable']:,}", ""


def _counts(counts: Mapping[str, int]) -> Iterable[tuple[str, ...]]:
    return [(reason, f"{count:,}") for reason, count in counts.items()] or [("none", "0")]


def _speed_rows(
    facts: Mapping[str, Any],
    planned: Mapping[str, Any],
    generation: Mapping[str, Any],
    seconds: Mapping[str, float],
    workers: int,
) -> Iterable[tuple[str, ...]]:
    tokens = facts["text_tokens"] + facts["speech_tokens"]
    amounts = {
        "plan": (planned["text_tokens"], "text tokens"),
        "generate": (generation.get("codes", facts["speech_tokens"]), "codes"),
        "assemble": (tokens, "tokens"),
    }
    for job, taken in seconds.items():
        amount, unit = amounts[job]
        rate = f"{amount / max(taken, 1e-9):,.0f} {unit}/s"
        yield job, f"{taken:,.1f}", rate, f"{workers * taken / 3600:,.2f}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _histogram(counts: np.ndarray, spans: Mapping[str, Any]) -> str:
    """Bars of the lengths found and, for spans of words, dots where Poisson would have them."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    total = max(int(counts.sum()), 1)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    numbers = np.arange(1, max(len(counts), 2))
    axes.bar(numbers, counts[1:] / total if len(counts) > 1 else [0.0], color="#2a9db5")
    mean = float(np.dot(np.arange(len(counts)), counts) / total)
    note = f"{total:,} spans, {mean:.2f} words on average"
    if UNITS[spans["unit"]].draws_words:
        rate = spans["mean_span_words"]
        poisson = [math.exp(n * math.log(rate) - rate - math.lgamma(n + 1)) for n in numbers]
        shortest, longest = spans["min_span_words"], spans["max_span_words"] or numbers[-1]
        drawn = np.where((numbers >= shortest) & (numbers <= longest), poisson, 0)
        drawn /= max(drawn.sum(), 1e-12)  # lengths that do not occur are drawn again
        axes.plot(numbers, drawn, "o", color="#c4532d", markersize=4, label=f"Poisson({rate:g})")
        axes.legend(frameon=False)
    axes.set_xlabel("words in a span")
    axes.set_ylabel("share of spans")
    axes.spines[["top", "right"]].set_visible(False)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return f"<p>{note}</p>" + stream.getvalue()[stream.getvalue().index("<svg") :]
