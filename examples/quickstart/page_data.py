"""What the report page is made of, beside the figures of report.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording to play, its codes, and what the speech tokenizer reads from them."""

    kind: str
    """Which set it comes from, in words."""
    text: str
    reading: str
    codes: np.ndarray
    """(n,) codes."""
    samples: np.ndarray
    """(samples,) float32 in -1..1."""
    sample_rate_hz: int
    speaker: str = ""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of text (no codes), or a spoken span with its text and number of codes."""

    text: str
    num_codes: int = 0


@dataclass(frozen=True, kw_only=True)
class PageData:
    """Everything the page shows."""

    report: Mapping[str, Any]
    """The figures of report.json."""
    recordings: Sequence[Recording] = ()
    code_counts: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    """(K,) occurrences of each code."""
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]] = field(default_factory=dict)
    """Run -> name of the loss -> (step, value)."""
    documents: Sequence[Sequence[Segment]] = ()
    """Interleaved documents."""
