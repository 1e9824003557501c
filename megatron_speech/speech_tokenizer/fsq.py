"""Finite scalar quantization: a few bounded dimensions, each rounded (CosyVoice 2's choice).

No codebook is learned and no code can die: vectors are projected to a few numbers, each of these is
squashed by tanh and rounded to one of its levels, and a second projection leads back. A code is the
levels read as one number, the first one counting least (arXiv 2309.15505; with three levels a
dimension the rule is that of arXiv 2412.10117).
"""

from collections.abc import Sequence
from itertools import accumulate
from operator import mul

import torch
from torch import nn

from ..errors import ConfigError, DataError
from ..training.task import Metrics
from .config import SpeechTokenizerConfig
from .quantizer import Quantized, Quantizer, all_reduce_sum, fill, moments, usage_metrics


class FiniteScalarQuantizer(Quantizer):
    """Projections learn by gradient, straight through the rounding; there is no commitment loss."""

    ema_count: torch.Tensor

    def __init__(self, config: SpeechTokenizerConfig):
        super().__init__()
        assert config.quantize_vocab_size is not None
        self.config = config
        self.num_codes = config.quantize_vocab_size
        self.levels = config.fsq_levels
        self._places = list(accumulate((1, *self.levels[:-1]), mul))
        self.project_in = nn.Linear(config.d_model, len(self.levels))
        self.project_out = nn.Linear(len(self.levels), config.d_model)
        self.register_buffer("ema_count", torch.zeros(self.num_codes))
        self._pending = []

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor) -> Quantized:
        """Quantize (B, T, D) vectors; `valid` (B, T) is False on padding."""
        bounded, steps = self._steps(hidden)
        codes = self._read(steps).masked_fill(~valid, 0)
        if self.training:
            self._pending.append(codes[valid])
        values = self._values(steps)
        # Straight through: the value is the level's, the derivative is that of tanh.
        vectors = self.project_out(bounded + (values - bounded).detach())
        return Quantized(vectors, codes, torch.zeros((), device=hidden.device))

    def codes_of(self, vectors: torch.Tensor) -> torch.Tensor:
        """Codes of vectors: (N, D) -> (N,) int64.

        Raises:
            DataError: vectors with NaN.
        """
        bounded, steps = self._steps(vectors)
        if bounded.isnan().any():
            raise DataError("vectors with NaN came to be quantized; does the encoder overflow?")
        return self._read(steps)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Vectors of codes: (...) int64 -> (..., D) fp32."""
        return self.project_out(self._point(codes))

    def points(self) -> torch.Tensor:
        """Points of the grid: (K, d) fp32, each in -1..1."""
        return self._point(self._tensor(range(self.num_codes)))

    @torch.no_grad()
    def update(self, step: int) -> Metrics:
        """Move the counts, which serve the figures alone; every rank must call it."""
        pending, self._pending = self._pending, []
        counts = torch.zeros_like(self.ema_count)
        for codes in pending:
            counts += torch.bincount(codes, minlength=self.num_codes)
        decay = self.config.quantize_ema_decay
        self.ema_count.mul_(decay).add_(all_reduce_sum(counts), alpha=1 - decay)
        return usage_metrics(self.ema_count)

    @torch.no_grad()
    def initialise(
        self,
        vectors: torch.Tensor,
        seed: int = 0,
        rounds: int = 10,
        positions: torch.Tensor | None = None,
    ) -> None:
        """Project to the directions in which real vectors (N on this rank, D) vary most.

        Scaled to unit variance they fall on all levels alike; the way back is the least-squares
        fit. Nothing is drawn at random and nothing iterated.

        Raises:
            ConfigError: fewer vectors on all ranks than dimensions.
        """
        total, mean, covariance = moments(vectors)
        if total <= len(self.levels):
            raise ConfigError(
                f"{total:g} vectors cannot show the directions of {len(self.levels)} dimensions; "
                "raise --kmeans-vectors"
            )
        variances, directions = torch.linalg.eigh(covariance)  # in ascending order
        deviations = variances[-len(self.levels) :].clamp(min=1e-12).sqrt()
        inward = (directions[:, -len(self.levels) :] / deviations).T
        fill(self.project_in, inward, -inward @ mean)
        values = self._values(self._steps(vectors)[1]).double()
        inputs = torch.cat([values, values.new_ones(len(values), 1)], dim=1)
        squares = all_reduce_sum(inputs.T @ inputs)
        products = all_reduce_sum(inputs.T @ vectors.double())
        ridge = 1e-6 * total * torch.eye(len(squares), dtype=inputs.dtype, device=inputs.device)
        outward = torch.linalg.solve(squares + ridge, products)
        fill(self.project_out, outward[:-1].T, outward[-1])

    def _steps(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(..., D) -> tanh of the projections in -1..1, and their levels 0..L-1, (..., d) each."""
        bounded = self.project_in(hidden.float()).tanh()
        top = self._tensor(self.levels) - 1
        return bounded, ((bounded.detach().nan_to_num() + 1) / 2 * top).round().long()

    def _values(self, steps: torch.Tensor) -> torch.Tensor:
        """Levels 0..L-1 -> evenly spaced numbers -1..1."""
        return 2 * steps / (self._tensor(self.levels) - 1) - 1

    def _point(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (...) -> their points of the grid, (..., d)."""
        levels, places = self._tensor(self.levels), self._tensor(self._places)
        return self._values(codes[..., None] // places % levels)

    def _read(self, steps: torch.Tensor) -> torch.Tensor:
        return (steps * self._tensor(self._places)).sum(dim=-1)

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, device=self.project_in.weight.device)
