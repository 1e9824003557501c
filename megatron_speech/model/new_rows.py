"""First values of embedding rows for tokens the base model has never seen."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError
from .safetensors_folder import SafetensorsFolder
from .text_check import TextCheck

_SAMPLES_PER_CHANNEL = 4
_ROWS_AT_ONCE = 2048
_SCALES = (1.0, 0.5, 0.25, 0.125)
_MOST_NATS = 0.005


@dataclass(frozen=True, kw_only=True)
class NewRowsConfig:
    """How rows of new tokens are drawn."""

    new_rows: Literal["covariance", "noise"] = "covariance"
    """Draw with the mean and covariance of the old rows, or with independent channels."""
    new_rows_scale: float | None = None
    """Standard deviations of the draw, in those of the old rows; 0 gives the mean. If not given,
    the largest of 1, 1/2, 1/4 and 1/8 with which a text's loss is at most 0.005 nats above that
    with new rows at the mean. An embedding that is no output layer too then has 1."""
    new_rows_seed: int = 1234
    """Seed of the draw."""

    def __post_init__(self) -> None:
        scale = self.new_rows_scale
        if scale is not None and not 0 <= scale < float("inf"):
            raise ConfigError(f"--new-rows-scale is {scale}; give 0 or more")


class RowDraw:
    """The draw of `count` new rows of table number `table`, up to its scale.

    `read(slice)` gives old rows. Their mean is exact; so is their covariance where they are fewer
    than eight per channel, else it is of four to eight per channel, evenly spaced. Computed in
    float64, so that the rows do not depend on the number of threads.
    """

    def __init__(
        self,
        config: NewRowsConfig,
        read: Callable[[slice], Float[Tensor, "rows width"]],
        old_rows: int,
        count: int,
        table: int,
    ):
        """Read the old rows' statistics.

        Raises:
            ConfigError: fewer than two old rows.
        """
        if old_rows < 2:
            raise ConfigError(
                f"{old_rows} old rows have no covariance; expected a trained embedding"
            )
        first = read(slice(0, 1))
        self._width, self._dtype, self._count = first.size(1), first.dtype, count
        self._seed = config.new_rows_seed * 2 + table
        step = max(old_rows // (_SAMPLES_PER_CHANNEL * self._width), 1)
        self._mean, self._factor = _statistics(config, read, old_rows, step, self._width)

    def _noise(self) -> Iterator[Float[Tensor, "rows width"]]:
        """Deviations from the mean at scale 1, some rows at a time; float64, always the same."""
        generator = torch.Generator().manual_seed(self._seed)
        factor = self._factor
        for start in range(0, self._count, _ROWS_AT_ONCE):
            rows = min(_ROWS_AT_ONCE, self._count - start)
            noise = torch.randn((rows, self._width), generator=generator, dtype=torch.float64)
            yield noise @ factor.T if factor.dim() == 2 else noise * factor

    def rows(self, scale: float) -> Float[Tensor, "count width"]:
        """The rows at a scale, in the type that `read` gives."""
        drawn = torch.empty((self._count, self._width), dtype=self._dtype)
        start = 0
        for noise in self._noise():
            drawn[start : start + len(noise)] = self._mean + scale * noise
            start += len(noise)
        return drawn

    def choose_scale(self, check: TextCheck, kept: Float[Tensor, "tokens"]) -> float:
        """The largest scale that costs the text little more than rows at the mean do.

        The last hidden states amplify noise, and some of thousands of new tokens are then likely
        everywhere; how much of it a model bears differs.
        """
        scales = torch.tensor([0.0, *_SCALES])[:, None, None]
        log_sums = kept.expand(len(scales), -1)
        at_mean = (check.hidden @ self._mean.float())[:, None]
        for noise in self._noise():
            logits = at_mean + scales * (check.hidden @ noise.float().T)
            log_sums = log_sums.logaddexp(logits.logsumexp(2))
        losses = check.loss(log_sums)
        bearable = (losses[1:] <= losses[0] + _MOST_NATS).tolist()
        return next((s for s, good in zip(_SCALES, bearable, strict=True) if good), _SCALES[-1])


@dataclass(frozen=True, kw_only=True)
class TextLoss:
    """Mean loss of a text, in nats a token, of a base and of the same with its new rows."""

    tokens: int
    before: float
    after: float
    scale: float
    """Of the draw of the new rows."""


class ExtendedTable:
    """An embedding or output layer of a base with rows for new tokens, and zeros for padding.

    Rows of the base's tokens come first, then the new ones, in the place of what rows the base has
    no token for; of these the rest stays.
    """

    def __init__(
        self,
        source: SafetensorsFolder,
        name: str,
        number: int,
        sizes: tuple[int, int, int],
        config: NewRowsConfig,
    ):
        """`sizes` are the base's tokens, these and the new ones, and the base's rows; tables of
        another `number` are drawn from another seed."""
        self._read = partial(source.read, name)
        self._width, self._dtype = source.entries[name].shape[1], source.dtype()
        self._sizes, self._number, self._config = sizes, number, config
        self._draw = lru_cache(maxsize=1)(self._open_draw)
        self._drawn = lru_cache(maxsize=1)(lambda: self._draw().rows(self.scale))
        self.scale = 1.0 if config.new_rows_scale is None else config.new_rows_scale

    def _open_draw(self) -> RowDraw:
        text, used, _ = self._sizes
        return RowDraw(self._config, self._read, text, used - text, self._number)

    def rows(self, start: int, stop: int) -> Float[Tensor, "rows width"]:
        """Rows start..stop; new ones are of the scale that `scale` says."""
        text, used, base = self._sizes
        rows = torch.zeros((stop - start, self._width), dtype=self._dtype)
        for low, high in ((0, text), (text, used), (used, base)):
            low, high = max(low, start), min(high, stop)
            if low < high and text <= low < used:
                rows[low - start : high - start] = self._drawn()[low - text : high - text]
            elif low < high:
                rows[low - start : high - start] = self._read(slice(low, high))
        return rows

    def settle_scale(self, check: TextCheck) -> TextLoss:
        """Choose the scale, if the config gives none, and tell what the new rows then do."""
        text, used, base = self._sizes
        kept = check.log_sum_of(self._read, 0, text)
        kept = kept.logaddexp(check.log_sum_of(self._read, used, base))
        replaced = check.log_sum_of(self._read, text, min(used, base))
        if self._config.new_rows_scale is None:
            self.scale = self._draw().choose_scale(check, kept)
        new = check.log_sum_of(self._drawn().__getitem__, 0, used - text)
        return TextLoss(
            tokens=check.tokens,
            before=check.loss(kept.logaddexp(replaced)).item(),
            after=check.loss(kept.logaddexp(new)).item(),
            scale=self.scale,
        )


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
