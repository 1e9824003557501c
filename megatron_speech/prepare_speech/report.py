"""One page on what became of the recordings: hours in and out, why not, samples to hear."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from .. import pages
from ..io.files import write_text
from .filters import Thresholds

_KEPT, _PER_REASON = 12, 2


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
    counts, _ = np.histogram([row["duration_s"] for row in kept], bins=30, range=(0, 30))
    page = pages.render(
        pages.HERE / "prepared_speech.html",
        title="Prepared speech",
        summary=summary,
        length_shares=counts / max(len(kept), 1),
        kept=[_sample(path.parent, row) for row in _spread(kept)],
        rejected=[_sample(path.parent, row) for row in _examples(rows, path.parent)],
        thresholds={each.name: _shown(getattr(keep, each.name)) for each in fields(keep)},
    )
    write_text(path, page)


def _shown(value: Any) -> str:
    return ", ".join(value) or "all" if isinstance(value, tuple) else f"{value:g}"


def _spread(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some of them, from the first to the last."""
    if len(rows) <= _KEPT:
        return list(rows)
    return [rows[at] for at in np.linspace(0, len(rows) - 1, _KEPT).round().astype(int)]


def _examples(rows: Sequence[dict[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    seen: dict[str, int] = {}
    for row in rows:
        reason = row["status"]
        if reason == "kept" or not row["path"] or not (folder / row["path"]).is_file():
            continue
        seen[reason] = seen.get(reason, 0) + 1
        if seen[reason] <= _PER_REASON:
            yield row


def _sample(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    """A segment with its sound, what was read and what is known of it."""
    content = base64.b64encode((folder / row["path"]).read_bytes()).decode()
    return row | {
        "source": f"data:audio/flac;base64,{content}",
        "said": row["text"] if row["status"] == "kept" else row["reading"] or "",
        "why": row["detail"] or _measures(row),
    }


def _measures(row: dict[str, Any]) -> str:
    return (
        f"{row['language']}, log-probability {row['log_probability']:.2f}, readings differ in "
        f"{row['disagreement']:.0%} of the words, {row['snr_db']:.0f} dB"
    )
