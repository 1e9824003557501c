"""What to say about published benchmarks on the command line. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Published benchmarks by name."""

    benchmark: tuple[str, ...] = ()
    """Names such as topic-storycloze or sblimp (docs/benchmarks_by_name.md lists them)."""
    benchmark_path: tuple[Path, ...] = ()
    """Where each of them lies, in the same order."""
    benchmark_split: str | None = None
    """Another split than the one papers report: dev, test, a region of SD-QA."""
    text_to_token: Path | None = None
    """Exported text-to-token model that speaks what has text and no audio."""
    contamination_against: tuple[str, ...] = ()
    """Training text (files, folders, patterns): items that occur there are counted, and figures of
    the others given beside."""
    text_key: str = "text"
    """Column or key that holds the training text."""

    def __post_init__(self) -> None:
        if len(self.benchmark) != len(self.benchmark_path):
            raise ConfigError(
                f"--benchmark names {len(self.benchmark)} and --benchmark-path "
                f"{len(self.benchmark_path)}; give one path for each name"
            )
        twice = {name for name in self.benchmark if self.benchmark.count(name) > 1}
        if twice:
            raise ConfigError(f"--benchmark {twice.pop()} comes twice; results would be one")
