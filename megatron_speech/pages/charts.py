"""Charts as SVG. Colours come from the page's style sheet, by class name (`css`)."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np
from markupsafe import Markup

WIDTH = 440
DIRECTIONS = {"t2t": "T→T", "s2t": "S→T", "s2s": "S→S", "t2s": "T→S"}
"""Of evaluation: from what is heard or read to what is said or written."""
_GOLDEN_ANGLE = 137.508


def svg(body: str, height: int, label: str, width: int = WIDTH, more: str = "") -> Markup:
    """A picture that scales with its column; `label` is read to those who cannot see it."""
    return Markup(
        f'<svg viewBox="0 0 {width} {height}" {more}role="img" '
        f'aria-label="{escape(label, quote=True)}">{body}</svg>'
    )


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start") -> str:
    """A line of text at its baseline."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">'
        f"{escape(content)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def rect(x: float, y: float, width: float, height: float, css: str, title: str = "") -> str:
    """A rectangle; `title` shows on hovering."""
    inside = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(width, 0):.2f}" height="{max(height, 0):.2f}" '
        f'class="{css}">{inside}</rect>'
    )


def grouped_bars(
    groups: Sequence[tuple[str, Sequence[tuple[str, float, float, str]]]],
    label: str,
    ceilings: Mapping[str, float],
) -> Markup:
    """Accuracies from 0 to 1 in groups, with error bars, the chance line and ceiling marks.

    Args:
        groups: names, and in each bars of (name, value, standard error, css).
        label: of the whole picture.
        ceilings: of some groups, by name.
    """
    left, right, top, bottom, height = 34, 6, 14, 44, 240
    plot = height - top - bottom

    def y(value: float) -> float:
        return top + plot * (1 - min(max(value, 0), 1))

    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        css = "chance" if tick == 0.5 else "grid"
        parts.append(line(left, y(tick), WIDTH - right, y(tick), css))
        parts.append(text(left - 6, y(tick) + 4, f"{100 * tick:.0f}", "tick", "end"))
    step = (WIDTH - left - right) / len(groups)
    for number, (name, bars) in enumerate(groups):
        width = min(34.0, 0.72 * step / len(bars))
        start = left + step * number + (step - width * len(bars)) / 2
        for index, (title, value, stderr, css) in enumerate(bars):
            x = start + index * width
            middle = x + width / 2
            title = f"{title}: {100 * value:.1f} ± {100 * stderr:.1f} %"
            parts.append(rect(x + 1, y(value), width - 2, y(0) - y(value), f"bar {css}", title))
            parts.append(line(middle, y(value - stderr), middle, y(value + stderr), "error"))
            parts.append(text(middle, y(0) - 5, f"{100 * value:.0f}", "onbar", "middle"))
        parts.append(text(left + step * (number + 0.5), height - 24, name, "axis", "middle"))
        if name in ceilings:
            top_y = y(ceilings[name])
            parts.append(line(start - 4, top_y, start + width * len(bars) + 4, top_y, "ceiling"))
    return svg("".join(parts), height - 12, label)


def accuracies(
    arms: Sequence[tuple[str, str, Mapping[str, Mapping[str, float]]]],
    label: str,
    heard_ceiling: float | None = None,
) -> Markup:
    """Accuracy by direction of several arms, each (name, css, results by direction).

    `heard_ceiling` is what S→T could reach. Nothing is drawn where there are no results.
    """
    groups = []
    for direction, name in DIRECTIONS.items():
        bars = [
            (f"{arm}, {name}", found[direction]["accuracy"], found[direction]["stderr"], css)
            for arm, css, found in arms
            if direction in found
        ]
        groups += [(name, bars)] if bars else []
    ceilings = {} if heard_ceiling is None else {DIRECTIONS["s2t"]: heard_ceiling}
    return grouped_bars(groups, label, ceilings) if groups else Markup()


def smooth(points: Sequence[tuple[float, float]], pieces: int = 90) -> list[tuple[float, float]]:
    """At most `pieces` points, each the mean of its neighbours."""
    values = np.asarray(points, dtype=float).reshape(-1, 2)
    chunks = np.array_split(values, min(len(values), pieces) or 1)
    return [(float(chunk[-1, 0]), float(chunk[:, 1].mean())) for chunk in chunks if len(chunk)]


def line_chart(
    series: Sequence[tuple[str, str, Sequence[Sequence[float]]]],
    label: str,
    *,
    unit: str = "steps",
    bounds: tuple[float, float] | None = None,
    chance: float | None = None,
) -> Markup:
    """Curves (name, css, points) over steps or another unit, named at their ends.

    A point is x, y and, where it has one, a standard error. `bounds` are those of y; without them
    they follow the points. `chance` is a broken line.
    """
    series = [entry for entry in series if len(entry[2])]
    if not series:
        return Markup()
    left, top, bottom, height = 34, 10, 30, 220
    right = max(64, 10 + 7 * max(len(name) for name, _, _ in series))
    points = np.array([point[:2] for entry in series for point in entry[2]], dtype=float)
    last = max(points[:, 0].max(), 1.0)
    low, high = bounds or _bounds(points[:, 1])

    def x(value: float) -> float:
        return left + (WIDTH - left - right) * value / last

    def y(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return top + (height - top - bottom) * (1 - share)

    parts = []
    for tick in _ticks(low, high):
        parts.append(line(left, y(tick), WIDTH - right, y(tick), "grid"))
        parts.append(text(left - 6, y(tick) + 4, f"{tick:g}", "tick", "end"))
    if chance is not None:
        parts.append(line(left, y(chance), WIDTH - right, y(chance), "chance"))
    parts += [text(left, height - 10, "0", "tick"),
              text(WIDTH - right, height - 10, f"{last:,.0f} {unit}", "tick", "end")]  # fmt: skip
    ends = _apart([y(entry[2][-1][1]) for entry in series], 15)
    for (name, css, curve), end in zip(series, ends, strict=True):
        path = " ".join(f"{x(point[0]):.1f},{y(point[1]):.1f}" for point in curve)
        parts.append(f'<polyline points="{path}" class="curve {css}"/>')
        parts += [
            line(x(at), y(value - error[0]), x(at), y(value + error[0]), f"curve {css}")
            for at, value, *error in curve
            if error
        ]
        parts.append(text(WIDTH - right + 6, end + 4, name, f"name {css}"))
    return svg("".join(parts), height, label)


def _bounds(values: np.ndarray) -> tuple[float, float]:
    """Around nearly all values (n,), at halves."""
    low = float(np.floor(2 * values.min()) / 2)
    high = float(np.ceil(2 * np.quantile(values, 0.99)) / 2)
    return low, max(high, low + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    step = next(s for s in (0.1, 0.25, 0.5, 1, 2, 5, 10, 20) if (high - low) / s <= 6 or s == 20)
    return [float(tick) for tick in np.arange(np.ceil(low / step) * step, high + 1e-9, step)]


def _apart(positions: Sequence[float], least: float) -> list[float]:
    """Move labels down until none lies closer than `least` to the one above it."""
    moved = list(positions)
    order = sorted(range(len(moved)), key=lambda index: moved[index])
    for above, below in pairwise(order):
        moved[below] = max(moved[below], moved[above] + least)
    return moved


def usage_histogram(counts: np.ndarray, label: str) -> Markup:
    """How often each code occurs, most frequent first, (K,) counts."""
    shares = np.sort(counts)[::-1] / max(counts.sum(), 1)
    bins = [float(chunk.mean()) for chunk in np.array_split(shares, min(len(shares), 160))]
    peak, even = max(float(shares.max()), 1e-9), 1 / len(shares)
    last = f"code {len(shares):,} of {len(shares):,}"
    picture, left, y = _columns(bins, peak, ("most frequent code", last), "speech-fill")
    picture += line(left, y(even), WIDTH - 6, y(even), "chance")
    picture += text(WIDTH - 6, y(even) - 4, "if all were used alike", "tick", "end")
    return svg(picture, _COLUMNS_HEIGHT, label)


def length_histogram(
    shares: np.ndarray, unit: str, label: str, expected: Sequence[float] = (), note: str = ""
) -> Markup:
    """Shares of lengths 1..n, (n,), and dots where they were expected (none, or n)."""
    peak = max([*shares, *expected, 1e-9])
    last = f"{len(shares):,} {unit}"
    picture, left, y = _columns(shares, peak, ("1", last), "speech-fill")
    step = (WIDTH - 6 - left) / len(shares)
    for number, share in enumerate(expected):
        x = left + (number + 0.5) * step
        picture += f'<circle cx="{x:.1f}" cy="{y(share):.1f}" r="3" class="dot"/>'
    picture += text(WIDTH - 6, 20, note, "tick", "end")
    return svg(picture, _COLUMNS_HEIGHT, label)


_COLUMNS_HEIGHT = 190


def _columns(
    values: Sequence[float] | np.ndarray, peak: float, ends: tuple[str, str], css: str
) -> tuple[str, int, Callable[[float], float]]:
    """Columns side by side with named ends; where they begin, and the place of a value."""
    left, top, plot = 34, 10, 146
    width = WIDTH - left - 6
    step = width / len(values)

    def y(value: float) -> float:
        return top + plot * (1 - value / peak)

    columns = [rect(left + n * step, y(value), step + 0.2, y(0) - y(value), css)
               for n, value in enumerate(values)]  # fmt: skip
    names = [
        text(left - 6, top + 8, f"{100 * peak:.2g}%", "tick", "end"),
        text(left - 6, y(0), "0", "tick", "end"),
        text(left, _COLUMNS_HEIGHT - 12, ends[0], "tick"),
        text(left + width, _COLUMNS_HEIGHT - 12, ends[1], "tick", "end"),
    ]
    return "".join([*columns, *names]), left, y


def horizontal_bars(rows: Sequence[tuple[str, float, str, str]], label: str) -> Markup:
    """Rows of (name, value, shown, css), the longest filling the width."""
    name_width, row_height = 172, 24
    most = max((value for _, value, _, _ in rows), default=1.0) or 1.0
    width = WIDTH - name_width - 76
    parts = []
    for number, (name, value, shown, css) in enumerate(rows):
        y = number * row_height
        length = width * value / most
        parts.append(text(name_width - 8, y + 16, name, "", "end"))
        parts.append(rect(name_width, y + 4, max(length, 1.5), 15, f"bar {css}"))
        parts.append(text(name_width + length + 6, y + 16, shown, "tick"))
    return svg("".join(parts), row_height * len(rows) + 4, label)


def waveform(samples: np.ndarray, codes: np.ndarray, label: str) -> Markup:
    """Peaks of the audio above its codes, one coloured cell each, on the same time axis."""
    width, height, columns = 600, 92, 200
    samples = np.abs(samples) / max(float(np.abs(samples).max(initial=0)), 1e-6)
    parts = []
    for number, chunk in enumerate(np.array_split(samples, columns)):
        half = 32 * float(chunk.max(initial=0)) + 0.5
        parts.append(rect(number * width / columns, 34 - half, 1.9, 2 * half, "wave"))
    step = width / max(len(codes), 1)
    for number, code in enumerate(codes.tolist()):
        hue = code * _GOLDEN_ANGLE % 360
        parts.append(
            f'<rect x="{number * step:.2f}" y="74" width="{step + 0.2:.2f}" height="18" '
            f'fill="hsl({hue:.0f} 45% 58%)"><title>code {code}</title></rect>'
        )
    more = 'preserveAspectRatio="none" class="wide" '
    return svg("".join(parts), height, label, width, more)
