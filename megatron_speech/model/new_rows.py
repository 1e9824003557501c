"""First values of embedding rows for tokens the base model has never seen."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError
from .code_rows import CodePoints
from .safetensors_folder import SafetensorsFolder
from .text_check import TextCheck

_SAMPLES_PER_CHANNEL = 4
_ROWS_AT_ONCE = 2048
_FEWEST_DIRECTIONS = 8
_SHIFTS = tuple(half / 2 for half in range(13))
_MOST_NATS = 1e-4


@dataclass(frozen=True, kw_only=True)
class NewRowsConfig:
    """How rows of new tokens are drawn."""

    new_rows: Literal["covariance", "noise"] = "covariance"
    """Draw with the mean and covariance of the old rows, or with independent channels."""
    new_rows_scale: float | None = None
    """Standard deviations of a plain draw, in those of the old rows; 0 gives the mean. If not
    given, the draw is at scale 1 and rows that give logits are fitted to a text: without the
    directions that its hidden states amplify most, and lowered by some nats, as far as needed for
    a loss at most 0.0001 nats above that without new rows."""
    new_rows_seed: int = 1234
    """Seed of the draw."""

    def __post_init__(self) -> None:
        scale = self.new_rows_scale
        if scale is not None and not 0 <= scale < float("inf"):
            raise ConfigError(f"--new-rows-scale is {scale}; give 0 or more")


class RowDraw:
    """The draw of `count` new rows of table number `table`: mean and noise.

    `read(slice)` gives old rows. Their mean is exact; so is their covariance where they are fewer
    than eight per channel, else it is of four to eight per channel, evenly spaced. Computed in
    float64, so that the rows do not depend on the number of threads; what `fit` changes does, in
    the last bits of its hidden states.
    """

    directions: int = 0
    """Taken out of the noise."""
    shift: float = 0.0
    """Nats by which the rows lower their logits."""

    def __init__(
        self,
        config: NewRowsConfig,
        read: Callable[[slice], Float[Tensor, "rows width"]],
        old_rows: int,
        count: int,
        table: int,
        codes: CodePoints | None = None,
    ):
        """Read the old rows' statistics; `codes` say how the last of the new rows lie.

        Raises:
            ConfigError: fewer than two old rows.
        """
        if old_rows < 2:
            raise ConfigError(
                f"{old_rows} old rows have no covariance; expected a trained embedding"
            )
        first = read(slice(0, 1))
        self._width, self._dtype, self._count = first.size(1), first.dtype, count
        self._codes = codes
        self._seed = config.new_rows_seed * 2 + table
        self.scale = 1.0 if config.new_rows_scale is None else config.new_rows_scale
        step = max(old_rows // (_SAMPLES_PER_CHANNEL * self._width), 1)
        self._mean, self._factor = _statistics(config, read, old_rows, step, self._width)
        self._without = torch.empty((self._width, 0), dtype=torch.float64)

    def _noise(self) -> Iterator[Float[Tensor, "rows width"]]:
        """Standard normals, some rows at a time; float64, always the same.

        Independent ones, but for rows of codes whose places are known.
        """
        generator = torch.Generator().manual_seed(self._seed)
        for start in range(0, self._count, _ROWS_AT_ONCE):
            rows = min(_ROWS_AT_ONCE, self._count - start)
            noise = torch.randn((rows, self._width), generator=generator, dtype=torch.float64)
            if self._codes is not None:
                first = start - (self._count - len(self._codes.points))
                self._codes.arrange(noise, first, self._seed)
            yield noise

    def rows(self) -> Float[Tensor, "count width"]:
        """The rows, in the type that `read` gives."""
        drawn = torch.empty((self._count, self._width), dtype=self._dtype)
        start = 0
        for noise in self._noise():
            noise -= noise @ self._without @ self._without.T
            drawn[start : start + len(noise)] = self._mean + self.scale * (noise @ self._factor.T)
            start += len(noise)
        return drawn

    def fit(self, check: TextCheck, kept: Float[Tensor, "tokens"]) -> None:
        """Take from noise and mean what makes new tokens likely in a text.

        The last hidden states amplify a few directions of the noise, and some of thousands of
        tokens are then likely everywhere. Without these the noise is still nearly as wide. What is
        left is a matter of frequency: all new rows move the same way, by the least-squares
        solution (with a ridge, in units of old standard deviations) for logits lower by `shift`.
        The fewest directions, then the least shift that suffice are taken; else the most of both.
        """
        amplified = check.hidden.double() @ self._factor  # (tokens, width): logits of unit noise
        moment = amplified.T @ amplified / check.tokens
        directions = torch.linalg.eigh(moment).eigenvectors.flip(1)  # most amplified first
        ridge = torch.eye(self._width, dtype=torch.float64)
        lowering = self._factor @ torch.linalg.solve(moment + ridge, amplified.mean(0))
        shifts = torch.tensor(_SHIFTS)
        lowered = shifts[:, None] * (check.hidden @ lowering.float())
        at_mean = (check.hidden @ self._mean.float())[:, None]
        bearable = check.loss(kept) + _MOST_NATS
        self.directions = min(_FEWEST_DIRECTIONS, self._width // 2)
        while True:
            self._without = directions[:, : self.directions]
            left = (amplified - amplified @ self._without @ self._without.T).float()
            new = torch.full_like(kept, float("-inf"))
            for noise in self._noise():
                new = new.logaddexp((at_mean + left @ noise.float().T).logsumexp(1))
            losses = check.loss(kept.logaddexp(new - lowered))
            if (losses <= bearable).any() or 2 * self.directions > self._width // 2:
                break
            self.directions *= 2
        enough = losses <= bearable
        best = enough.int().argmax() if enough.any() else losses.argmin()
        self.shift = shifts[best].item()
        self._mean = self._mean - self.shift * lowering


@dataclass(frozen=True, kw_only=True)
class TextLoss:
    """Mean loss of a text, in nats a token, of a base and of the same with its new rows."""

    tokens: int
    before: float
    after: float
    scale: float
    """Of the draw of the new rows."""
    directions: int
    """Left out of that draw."""
    shift: float
    """Nats by which all new rows are lowered."""


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
        codes: CodePoints | None = None,
    ):
        """`sizes` are the base's tokens, these and the new ones, and the base's rows; tables of
        another `number` are drawn from another seed. `codes` are the last of the new tokens."""
        self._read = partial(source.read, name)
        self._width, self._dtype = source.entries[name].shape[1], source.dtype()
        self._sizes, self._number, self._config = sizes, number, config
        self._codes = codes
        self._draw = lru_cache(maxsize=1)(self._open_draw)
        self._drawn = lru_cache(maxsize=1)(lambda: self._draw().rows())

    def _open_draw(self) -> RowDraw:
        text, used, _ = self._sizes
        return RowDraw(self._config, self._read, text, used - text, self._number, self._codes)

    def rows(self, start: int, stop: int) -> Float[Tensor, "rows width"]:
        """Rows start..stop."""
        text, used, base = self._sizes
        rows = torch.zeros((stop - start, self._width), dtype=self._dtype)
        for low, high in ((0, text), (text, used), (used, base)):
            low, high = max(low, start), min(high, stop)
            if low < high and text <= low < used:
                rows[low - start : high - start] = self._drawn()[low - text : high - text]
            elif low < high:
                rows[low - start : high - start] = self._read(slice(low, high))
        return rows

    def fit(self, check: TextCheck) -> TextLoss:
        """Fit new rows to the text, unless the config gives a scale, and tell what they do to it.

        To be called before any row is read.
        """
        text, used, base = self._sizes
        kept = check.log_sum_of(self._read, 0, text)
        kept = kept.logaddexp(check.log_sum_of(self._read, used, base))
        replaced = check.log_sum_of(self._read, text, min(used, base))
        draw = self._draw()
        if self._config.new_rows_scale is None:
            draw.fit(check, kept)
        new = check.log_sum_of(self._drawn().__getitem__, 0, used - text)
        return TextLoss(
            tokens=check.tokens,
            before=check.loss(kept.logaddexp(replaced)).item(),
            after=check.loss(kept.logaddexp(new)).item(),
            scale=draw.scale,
            directions=draw.directions,
            shift=draw.shift,
        )


def _statistics(
    config: NewRowsConfig,
    read: Callable[[slice], Tensor],
    old_rows: int,
    step: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """Mean (width,) and a factor (width, width) of the covariance, diagonal for plain noise."""
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
        return mean, (products / count - middle.square()).clamp(min=0).sqrt().diag()
    covariance = products / count - torch.outer(middle, middle)
    variances = covariance.diagonal()
    variances += 1e-6 * variances.mean() + 1e-30  # fewer rows than channels: not quite singular
    return mean, torch.linalg.cholesky(covariance)
