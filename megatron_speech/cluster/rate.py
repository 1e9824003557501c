"""How fast a GPU trains: measured, stated, or assumed, and it is said which."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..training.devices import Gpu
from ..training.reporting import read_metrics

_TFLOPS = "throughput per GPU (TFLOP/s/GPU)"
_SHARES = {
    # of the dense bf16 peak
    "bf16": (0.45, "Megatron-LM's README states 41 to 48% on H100 for models of 2B to 462B"),
    "fp8": (744 / 989.4, "Megatron-Bridge 25.11 states 744 TFLOP/s for Llama 3 8B on 8 H100"),
}


@dataclass(frozen=True, kw_only=True)
class RateConfig:
    """What is known of the speed; give one of them, or none to plan with an assumption."""

    mfu: float | None = None
    """Per cent of the GPU's dense bf16 peak, without recomputation and pipeline bubble."""
    tflops: float | None = None
    """The same as TFLOP/s of one GPU."""
    measured_run: Path | None = None
    """Folder of a run on such GPUs: the median of its log is taken."""

    def __post_init__(self) -> None:
        given = [name for name, value in vars(self).items() if value is not None]
        if len(given) > 1:
            flags = " and ".join("--" + name.replace("_", "-") for name in given)
            raise ConfigError(f"{flags} all state the speed; give one of them")
        for name in ("mfu", "tflops"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"--{name} is {value}; give more than 0")
        if self.mfu is not None and self.mfu > 250:
            raise ConfigError(f"--mfu is {self.mfu} per cent of the bf16 peak; that cannot be")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Model FLOPs a second of one GPU, and where the figure is from."""

    tflops: float
    source: str
    is_assumed: bool
    includes_layout: bool = False
    """A measured run has its recomputation and bubble in it already."""


def find_rate(config: RateConfig, gpu: Gpu, fp8: bool) -> Rate:
    """The speed to plan with.

    Raises:
        ConfigError: the measured run has no figures.
    """
    if config.tflops is not None:
        return Rate(tflops=config.tflops, source="--tflops", is_assumed=False)
    if config.mfu is not None:
        source = f"--mfu {config.mfu:g}"
        return Rate(tflops=config.mfu / 100 * gpu.bf16_tflops, source=source, is_assumed=False)
    if (run := config.measured_run) is None:
        share, source = _SHARES["fp8" if fp8 else "bf16"]
        return Rate(tflops=share * gpu.bf16_tflops, source=source, is_assumed=True)
    try:
        records = read_metrics(run, "interval")
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"--measured-run {run}: its log cannot be read ({error})") from None
    figures = [record[_TFLOPS] for record in records if record.get(_TFLOPS)][1:]  # 1st: warm-up
    if not figures:
        raise ConfigError(
            f"--measured-run {run}: no throughput in its log; let it pass two --log-interval"
        )
    tflops = statistics.median(figures)
    source = f"median of {len(figures)} intervals measured in {run}"
    return Rate(tflops=tflops, source=source, is_assumed=False, includes_layout=True)
