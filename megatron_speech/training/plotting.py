"""Pictures of runs: their figures over steps or tokens, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from ..errors import ConfigError, DataError, require_within
from ..io.files import atomic_path, read_yaml_object
from .reporting import read_metrics


@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """What to draw."""

    runs: tuple[Path, ...]
    """Folders of runs (their --save)."""
    output: Path = Path("losses.png")
    """Picture to write; its ending says the format: png, svg or pdf."""
    metrics: tuple[str, ...] = ("lm loss", "text loss", "speech loss")
    """One panel for each; a run without one is left out of its panel."""
    x: Literal["iteration", "tokens"] = "iteration"
    """What the figures are drawn over."""
    smooth: int = 20
    """Steps in the running mean of the thick line; 1 draws the figures alone."""

    def __post_init__(self) -> None:
        if not self.runs or not self.metrics:
            raise ConfigError("give at least one of --runs and one of --metrics")
        require_within(self, 1, "smooth")
        if self.output.suffix not in (".png", ".svg", ".pdf"):
            raise ConfigError(f"--output {self.output}: the name must end in .png, .svg or .pdf")


def draw(config: PlotConfig) -> Path:
    """Write the picture and return its path: training as lines, validation as dots.

    Raises:
        DataError: a run has no metrics, or no run has one of them.
    """
    from matplotlib.figure import Figure

    runs = {
        name: _read(run, config.x)
        for name, run in zip(_names(config.runs), config.runs, strict=True)
    }
    figure = Figure(figsize=(1.5 + 4.5 * len(config.metrics), 4), layout="constrained")
    panels = figure.subplots(1, len(config.metrics), squeeze=False)[0]
    for panel, metric in zip(panels, config.metrics, strict=True):
        drawn = [_draw_run(panel, name, run, metric, config) for name, run in runs.items()]
        if not any(drawn):
            known = sorted({name for run in runs.values() for row in run["train"] for name in row})
            raise DataError(f"no run has figures of {metric!r}; there are: {', '.join(known)}")
        if any(metric in row for run in runs.values() for row in run["valid"]):
            panel.plot([], [], "o", ms=5, color="white", mec="black", mew=0.6, label="validation")
        panel.set(title=metric, xlabel=config.x)
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    with atomic_path(config.output) as temporary:
        figure.savefig(temporary, format=config.output.suffix[1:], dpi=130)
    return config.output


def _draw_run(panel: Any, name: str, run: dict[str, Any], metric: str, config: PlotConfig) -> bool:
    """Whether the run had anything of this metric."""
    rows = {kind: [row for row in run[kind] if metric in row] for kind in ("train", "valid")}
    if not rows["train"] and not rows["valid"]:
        return False
    x = {kind: [run["x"](row) for row in found] for kind, found in rows.items()}
    y = {kind: [row[metric] for row in found] for kind, found in rows.items()}
    (line,) = panel.plot(x["train"], _running_mean(y["train"], config.smooth), lw=1.6, label=name)
    if config.smooth > 1:
        panel.plot(x["train"], y["train"], lw=0.5, alpha=0.35, color=line.get_color())
    if rows["valid"]:
        panel.plot(x["valid"], y["valid"], "o", ms=5, color=line.get_color(), mec="black", mew=0.6)
    return True


def _running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean over the last `width` values, fewer at the start."""
    return [fmean(values[max(end - width, 0) : end]) for end in range(1, len(values) + 1)]


def _read(run: Path, x: str) -> dict[str, Any]:
    if not (run / "metrics.jsonl").exists():
        raise DataError(f"{run} holds no metrics.jsonl: it is no folder of a run (--save)")
    train, valid = read_metrics(run), read_metrics(run, "valid")
    place = {row["iteration"]: row["iteration"] for row in train + valid}
    if x == "tokens":
        config = run / "run_config.yaml"
        saved = read_yaml_object(config) if config.exists() else {}
        data = saved.get("data")
        length = data.get("seq_length") if isinstance(data, dict) else None
        if not isinstance(length, int):
            raise DataError(f"{run} does not say how long its windows are; give --x iteration")
        for row in train:
            place[row["iteration"]] = row["consumed samples"] * length
    return {"train": train, "valid": valid, "x": lambda row: place[row["iteration"]]}


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' names, with those of as many parents as tell them all apart."""
    paths = [run.absolute() for run in runs]
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise ConfigError("--runs names one run twice")
