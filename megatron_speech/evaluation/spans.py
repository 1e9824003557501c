"""How well generated spans can be understood: by content class, length and place in the document.

Reads what the generate job left: code shards, and its reports, which keep the codes of rejected
spans. So word errors are known before and after the gates, with the rejection rate beside them. A
span without codes counts as one of which nothing was understood.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.code_shards import find_shards, read_code_shard
from ..errors import DataError
from ..io.parquet import read_parquet

LENGTHS = ((1, 2), (3, 5), (6, 10), (11, 20), (21, None))  # words
_FIFTHS = 5


@dataclass(frozen=True)
class Span:
    """One request and what came of it. `codes` (n,) are there for rejected spans too."""

    text: str
    content: str
    position: float
    codes: np.ndarray
    reason: str | None


def read_spans(codes: Path, requests: Path, limit: int | None = None) -> list[Span]:
    """The spans of generated code shards with their requests, from the start.

    `codes` is the output folder of the generate job, `requests` the plan's folder `requests`.

    Raises:
        DataError: shards that are missing, damaged, or answer other requests.
    """
    found: list[Span] = []
    for path in find_shards(codes):
        _, records = read_code_shard(path)
        asked = read_parquet(requests / path.name, ("id", "content", "position"))
        report = read_parquet(codes / "reports" / path.name, ("reason", "rejected_codes"))
        if asked["id"].to_pylist() != [record.id for record in records]:
            raise DataError(f"{path} answers other requests than {requests / path.name} has")
        columns = (
            table[name].to_pylist()
            for table, name in (
                (asked, "content"),
                (asked, "position"),
                (report, "reason"),
                (report, "rejected_codes"),
            )
        )
        for record, content, position, reason, rejected in zip(records, *columns, strict=True):
            made = record.codes if reason is None else np.array(rejected, dtype=np.int64)
            found.append(Span(record.text or "", content, position, made, reason))
        if limit is not None and len(found) >= limit:
            return found[:limit]
    return found


def span_figures(spans: Sequence[Span], readings: Sequence[str], language: str) -> dict[str, Any]:
    """Figures of all spans and of groups of them; `readings` (n,) are what the recogniser read."""
    from ..speech_tokenizer.transcription import word_errors

    counted = word_errors([span.text for span in spans], readings, language)
    counts = np.array(counted, np.int64).reshape(-1, 2)

    def groups(key: Callable[[Span], str], names: Sequence[str]) -> dict[str, Any]:
        keys = np.array([key(span) for span in spans], dtype=object)
        chosen = {name: np.flatnonzero(keys == name) for name in names}
        return {name: _figures(spans, counts, at) for name, at in chosen.items() if len(at)}

    classes = [name for name, _ in Counter(span.content for span in spans).most_common()]
    return {
        "all": _figures(spans, counts, np.arange(len(spans))),
        "by_content": groups(lambda span: span.content, classes),
        "by_words": groups(_length_name, [_name(*bounds) for bounds in LENGTHS]),
        "by_position": groups(_fifth, [str(n + 1) for n in range(_FIFTHS)]),
    }


def _figures(spans: Sequence[Span], counts: np.ndarray, at: np.ndarray) -> dict[str, Any]:
    accepted = [n for n in at if spans[n].reason is None]
    reasons = Counter(spans[n].reason for n in at if spans[n].reason is not None)
    return {
        "spans": len(at),
        "words": int(counts[at, 1].sum()),
        "wer_before_gates": _rate(counts[at]),
        "wer_after_gates": _rate(counts[accepted]),
        "rejected": 1 - len(accepted) / len(at),
        "reasons": dict(sorted(reasons.items())),
    }


def _rate(counts: np.ndarray) -> float | None:
    errors, words = counts.sum(axis=0).tolist()
    return errors / words if words else None


def _name(low: int, high: int | None) -> str:
    return f"{low}-{high}" if high else f"{low}+"


def _length_name(span: Span) -> str:
    words = len(span.text.split())
    return next(_name(low, high) for low, high in LENGTHS if high is None or words <= high)


def _fifth(span: Span) -> str:
    return str(min(int(span.position * _FIFTHS), _FIFTHS - 1) + 1)


def draw_spans(figures: dict[str, Any], path: Path) -> None:
    """The figures of `span_figures` as a PNG: word errors by the gates, rejections."""
    from matplotlib.figure import Figure

    titles = {
        "by_content": "content",
        "by_words": "words in the span",
        "by_position": "fifth of the document",
    }
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    axes = figure.subplots(1, len(titles), sharey=True, width_ratios=[1.7, 1, 1])
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        names = list(figures[key])
        rows = [figures[key][name] for name in names]
        places = np.arange(len(names))
        for shift, field, label, colour in (
            (-0.27, "wer_before_gates", "word errors before the gates", "#b04a3a"),
            (0.0, "wer_after_gates", "after the gates", "#3a6ea5"),
            (0.27, "rejected", "spans rejected", "#b9b9b9"),
        ):
            heights = [100 * (row[field] or 0) for row in rows]
            axis.bar(places + shift, heights, 0.25, label=label, color=colour)
        labels = [f"{name}\n({row['spans']:,})" for name, row in zip(names, rows, strict=True)]
        axis.set_xticks(places, labels, fontsize=8)
        axis.set_xlabel(f"{title} (spans)")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("percent")
    axes[-1].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
