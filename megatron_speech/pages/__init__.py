"""Pages to read in a browser: one HTML file each, with its style, pictures and sound inside.

A page is a Jinja2 template that extends `base.html` and uses the macros of `parts.html`, both
beside this file; `charts` draws its pictures. Whatever is filled in is escaped.
"""

import base64
import math
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ..io.rejected import describe_counts
from . import charts

HERE = Path(__file__).parent
"""Folder of the templates."""


def render(template: Path, **values: Any) -> str:
    """The page that a template makes of some values; nothing in it is fetched."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    texts = (percent, thousands, seconds_text, setting, read_back, audio_source, describe_counts)
    environment.filters |= {function.__name__: function for function in texts}
    style = Markup((HERE / "page.css").read_text(encoding="utf-8"))
    environment.globals |= {"charts": charts, "style": style}
    return environment.get_template(template.name).render(values)


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage, or a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.{digits}f}%"


def thousands(value: float) -> str:
    """1234567 as 1.2M, 12345 as 12,345."""
    return f"{value / 1e6:.1f}M" if value >= 1e6 else f"{value:,.0f}"


def seconds_text(seconds: float) -> str:
    """Seconds, or minutes and seconds."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def setting(value: object) -> str:
    """A setting of any kind in one line."""
    if isinstance(value, Mapping):
        parts = value.items()
        return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in parts)
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def read_back(read: str, said: str) -> Markup:
    """What was read, with words that were not said marked."""

    def bare(word: str) -> str:
        return word.lower().strip(".,;:?!\"'")

    words = read.split()
    matcher = SequenceMatcher(None, [bare(w) for w in said.split()], [bare(w) for w in words])
    right = {n for _, start, size in matcher.get_matching_blocks()
             for n in range(start, start + size)}  # fmt: skip
    wrong = Markup('<span class="wrong">{}</span>')
    marked = (escape(w) if number in right else wrong.format(w) for number, w in enumerate(words))
    return Markup(" ").join(marked) or Markup("(nothing)")


def audio_source(samples: np.ndarray, sample_rate_hz: int = 16_000) -> str:
    """Sound (samples,) as a FLAC inside the page."""
    from ..io.audio_files import encoded

    return "data:audio/flac;base64," + base64.b64encode(encoded(samples, sample_rate_hz)).decode()
