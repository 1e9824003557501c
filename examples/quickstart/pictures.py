"""The chart of the README, as an SVG that is readable in light and dark.

    python examples/quickstart/pictures.py --results benchmarks/results/demo_full.json \\
        --output docs/pictures/speech_to_text.svg
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: find this package
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import dataclass
    from statistics import mean, stdev

    from megatron_speech import cli
    from megatron_speech.io.files import read_json, write_text
    from megatron_speech.pages import charts

_STYLE = """
svg { color-scheme: light dark; font: 12px ui-sans-serif, system-ui, sans-serif }
text { fill: #1f2328 } .tick { fill: #5d646d; font-size: 11px } .axis { font-size: 13px }
.onbar { fill: #fff; font-weight: 600; font-size: 11px } .grid { stroke: #e3e0d8 }
.chance { stroke: #5d646d; stroke-dasharray: 4 3 } .error { stroke: #1f2328 }
.bar { fill: #8b9199 } .bar.model { fill: #c2571a }
@media (prefers-color-scheme: dark) {
  text { fill: #e7e5df } .tick { fill: #9aa1aa } .grid { stroke: #33373d }
  .chance { stroke: #9aa1aa } .error { stroke: #e7e5df } .bar { fill: #6c727a }
  .bar.model { fill: #e88a4f } .onbar { fill: #15171a } }
"""
_GROUPS = {
    "S→T, topic": ("s2t", "topic"),
    "S→T, story": ("s2t", "story"),
    "T→S, topic": ("t2s", "topic"),
}


@dataclass(frozen=True, kw_only=True)
class PicturesConfig:
    """From what, to where."""

    results: Path
    """Accuracies by arm, direction and task, one for each seed (JSON)."""
    output: Path
    """SVG file to write."""


def main(argv: Sequence[str] | None = None) -> None:
    config = cli.parse(PicturesConfig, argv, __doc__ or "")
    accuracy = read_json(config.results)["accuracy"]
    groups = []
    for name, (direction, task) in _GROUPS.items():
        found = {arm: accuracy[arm].get(direction, {}).get(task) for arm in accuracy}
        if not all(found.values()):
            continue
        bars = [
            (arm, mean(seeds), stdev(seeds), css)
            for (arm, seeds), css in zip(found.items(), ("model", "control"), strict=True)
        ]
        groups.append((name, bars))
    chart = str(charts.grouped_bars(groups, "Accuracy in %, interleaved against control", {}))
    legend = charts.rect(40, 0, 10, 10, "bar model") + charts.text(55, 9, "interleaved")
    legend += charts.rect(130, 0, 10, 10, "bar control") + charts.text(145, 9, "control")
    legend += charts.text(200, 9, "%; whiskers: deviation over seeds", "tick")
    chart = chart.replace("<svg", f'<svg width="{charts.WIDTH}" height="228"', 1)
    body = f'<style>{_STYLE}</style>{legend}<g transform="translate(0 18)">{chart}</g>'
    picture = str(charts.svg(body, 250, "Chart"))
    picture = picture.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" width="660"', 1)
    write_text(config.output, picture)


if __name__ == "__main__":
    cli.run(main, starts_over=True)
