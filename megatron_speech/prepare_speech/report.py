"""One page on what became of the recordings: hours in and out, why not, samples to hear."""

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ..io.files import write_text
from .filters import Thresholds

_KEPT, _PER_REASON = 12, 2
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Prepared speech</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;
color:#1c2330}}table{{border-collapse:collapse;margin:.5rem 0 1.5rem}}td,th{{padding:.3rem .8rem;
border-bottom:1px solid #d8dde6;text-align:left;vertical-align:top}}td.n{{text-align:right;
font-variant-numeric:tabular-nums}}.bars{{display:flex;align-items:flex-end;gap:2px;height:8rem}}
.bars i{{flex:1;background:#3d6fb4;min-height:1px}}.axis{{display:flex;justify-content:
space-between;color:#667;font-size:.85rem}}.sum{{font-size:1.25rem}}audio{{width:15rem;height:2rem}}
small{{color:#667}}td:last-child{{min-width:7rem}}
</style></head><body><h1>Prepared speech</h1>{body}</body></html>
"""


def write_report(
    path: Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]], keep: Thresholds
) -> None:
    """Write the page, with the sound of its samples in it.

    Args:
        path: of the page; the paths of `rows` start from its folder.
        summary: figures of the job.
        rows: segments with status and measures.
        keep: thresholds, as they were.
    """
    kept = [row for row in rows if row["status"] == "kept"]
    body = [
        f'<p class="sum"><b>{_hours(summary["hours"])}</b> of audio in '
        f"{summary['recordings']:,} recordings hold <b>{_hours(summary['speech_hours'])}</b> of "
        f"speech; <b>{_hours(summary['kept_hours'])}</b> in {summary['kept']:,} segments are "
        "kept.</p>",
        "<h2>What was set aside</h2>",
        _table(("reason", "number", "length"), _reasons(summary)),
        "<h2>What is kept, by language</h2>",
        _table(("language", "length"), [(k, _hours(v)) for k, v in summary["languages"].items()]),
        "<h2>Lengths of the segments kept</h2>",
        _histogram([row["duration_s"] for row in kept]),
        "<h2>Samples of what is kept</h2>",
        _samples(path.parent, _spread(kept)),
        "<h2>Samples of what is not</h2>",
        _samples(path.parent, list(_examples(rows, path.parent))),
        "<h2>Thresholds</h2>",
        _table(
            ("setting", "value"), [(f.name, _shown(getattr(keep, f.name))) for f in fields(keep)]
        ),
    ]
    write_text(path, _PAGE.format(body="\n".join(body)))


def _hours(hours: float) -> str:
    return f"{hours:,.2f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def _shown(value: Any) -> str:
    return ", ".join(value) or "all" if isinstance(value, tuple) else f"{value:g}"


def _reasons(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    hours = summary["rejected_hours"]
    ordered = sorted(summary["rejected"].items(), key=lambda item: -item[1])
    return [
        (reason, f"{number:,}", _hours(hours[reason]) if reason in hours else "whole recordings")
        for reason, number in ordered
    ]


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    lines = [
        "".join(
            f"<td{' class=n' if at else ''}>{html.escape(cell)}</td>" for at, cell in enumerate(row)
        )
        for row in rows
    ]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _histogram(lengths: Sequence[float]) -> str:
    counts, _ = np.histogram(lengths, bins=30, range=(0, 30))
    most = max(int(counts.max()), 1)
    bars = "".join(
        f'<i style="height:{100 * count / most:.1f}%" title="{at} to {at + 1} s: {count}"></i>'
        for at, count in enumerate(counts.tolist())
    )
    axis = '<div class="axis"><span>0 s</span><span>15 s</span><span>30 s</span></div>'
    return f'<div class="bars">{bars}</div>{axis}<p>most in one second of length: {most:,}</p>'


def _spread(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some of them, from the first to the last."""
    if len(rows) <= _KEPT:
        return list(rows)
    return [rows[at] for at in np.linspace(0, len(rows) - 1, _KEPT).round().astype(int)]


def _examples(rows: Sequence[dict[str, Any]], folder: Path) -> Iterable[dict[str, Any]]:
    seen: dict[str, int] = {}
    for row in rows:
        reason = row["status"]
        if reason == "kept" or not row["path"] or not (folder / row["path"]).is_file():
            continue
        seen[reason] = seen.get(reason, 0) + 1
        if seen[reason] <= _PER_REASON:
            yield row


def _samples(folder: Path, rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        content = base64.b64encode((folder / row["path"]).read_bytes()).decode()
        said = row["text"] if row["status"] == "kept" else (row["reading"] or "")
        reason = "" if row["status"] == "kept" else f"<b>{row['status']}</b><br>"
        detail = html.escape(row["detail"] or _measures(row))
        lines.append(
            f'<tr><td><audio controls preload="none" src="data:audio/flac;base64,{content}">'
            f"</audio><br><small>{html.escape(row['id'])}, {row['duration_s']:.1f} s</small></td>"
            f"<td>{html.escape(said)}</td><td>{reason}<small>{detail}</small></td></tr>"
        )
    return f"<table><tr><th>sound</th><th>text</th><th></th></tr>{''.join(lines)}</table>"


def _measures(row: dict[str, Any]) -> str:
    return (
        f"{row['language']}, log-probability {row['log_probability']:.2f}, readings differ in "
        f"{row['disagreement']:.0%} of the words, {row['snr_db']:.0f} dB"
    )
