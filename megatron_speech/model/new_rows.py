"""First values of embedding rows for tokens the base model has never seen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError

_SAMPLES_PER_CHANNEL = 4
_ROWS_AT_ONCE = 2048


@dataclass(frozen=True, kw_only=True)
class NewRowsConfig:
    """How rows of new tokens are drawn."""

    new_rows: Literal["covariance", "noise"] = "covariance"
    """Draw with the mean and covariance of the old rows, or with independent channels."""
    new_rows_scale: float = 1.0
    """Standard deviations of the draw, in those of the old rows; 0 gives the mean."""
    new_rows_seed: int = 1234
    """Seed of the draw."""

    def __post_init__(self) -> None:
        if not 0 <= self.new_rows_scale < float("inf"):
            raise ConfigError(f"--new-rows-scale is {self.new_rows_scale}; give 0 or more")


def draw_rows(
    config: NewRowsConfig,
    read: Callable[[slice], Float[Tensor, "rows width"]],
    old_rows: int,
    count: int,
    table: int,
) -> Float[Tensor, "count width"]:
    """Draw `count` new rows of table number `table` in the type that `read` gives.

    `read(slice)` gives old rows. Their mean is exact; so is their covariance where they are fewer
    than eight per channel, else it is of four to eight per channel, evenly spaced. Computed in
    float64, so that the result does not depend on the number of threads.

    Raises:
        ConfigError: fewer than two old rows.
    """
    if old_rows < 2:
        raise ConfigError(f"{old_rows} old rows have no covariance; expected a trained embedding")
    first = read(slice(0, 1))
    width, dtype = first.size(1), first.dtype
    step = max(old_rows // (_SAMPLES_PER_CHANNEL * width), 1)
    mean, factor = _statistics(config, read, old_rows, step, width)
    generator = torch.Generator().manual_seed(config.new_rows_seed * 2 + table)
    drawn = torch.empty((count, width), dtype=dtype)
    for start in range(0, count, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, count - start)
        noise = torch.randn((rows, width), generator=generator, dtype=torch.float64)
        noise = noise @ factor.T if factor.dim() == 2 else noise * factor
        drawn[start : start + rows] = mean + config.new_rows_scale * noise
    return drawn


def _statistics(
    config: NewRowsConfig,
    read: Callable[[slice], Tensor],
    old_rows: int,
    step: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """Mean (width,) and a factor of the covariance: (width, width), or (width,) if diagonal."""
    total, sampled = torch.zeros((2, width), dtype=torch.float64)
    full = config.new_rows == "covariance"
    products = torch.zeros((width, width) if full else (width,), dtype=torch.float64)
    count = 0
    for start in range(0, old_rows, step * _ROWS_AT_ONCE):
        block = read(slice(start, min(start + step * _ROWS_AT_ONCE, old_rows)))
        total += block.sum(0, dtype=torch.float64)
        rows = block[::step].double()
        sampled += rows.sum(0)
        products += rows.T @ rows if full else rows.square().sum(0)
        count += len(rows)
    mean, middle = total / old_rows, sampled / count
    if not full:
        return mean, (products / count - middle.square()).clamp(min=0).sqrt()
    covariance = products / count - torch.outer(middle, middle)
    variances = covariance.diagonal()
    variances += 1e-6 * variances.mean() + 1e-30  # fewer rows than channels: not quite singular
    return mean, torch.linalg.cholesky(covariance)
