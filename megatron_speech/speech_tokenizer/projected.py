"""Vector quantization in the directions of the vectors that the training loss feels most.

Whole vectors differ mostly in what the text does not depend on (voice, loudness), and the nearest
code tells that apart first. Let g be the gradient of the loss at a vector. A small error e there
raises the loss, to second order, by about e'Fe / 2 with F the mean of gg' (Fisher's information).
So F measures the distances: the projection is its square root, cut to the largest directions.
Codes of few dimensions are those of arXiv 2110.04627 (section 3.2); that the projection is measured
once, and not trained, is ours (docs/log.md, 2026-11-30).
"""

import torch
from torch import nn

from ..errors import ConfigError
from .config import SpeechTokenizerConfig
from .quantizer import VectorQuantizer, fill, moments

_RIDGE = 1e-6


class ProjectedVectorQuantizer(VectorQuantizer):
    """A codebook of `quantize_code_dim` dimensions between two fixed projections."""

    def __init__(self, config: SpeechTokenizerConfig):
        super().__init__(config)
        self.project_in = nn.Linear(config.d_model, config.code_width)
        self.project_out = nn.Linear(config.code_width, config.d_model)
        for layer in (self.project_in, self.project_out):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
            layer.requires_grad_(False)

    def inward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors (..., D) -> their projections (..., d), fp32."""
        return self.project_in(vectors.float())

    def outward(self, codes: torch.Tensor) -> torch.Tensor:
        """Rows of the codebook (..., d) -> the vectors they most likely come from, (..., D)."""
        return self.project_out(codes)

    @torch.no_grad()
    def choose_directions(self, vectors: torch.Tensor, sensitivity: torch.Tensor) -> None:
        """Set the projections by real vectors (N on this rank, D) and the mean of gg' (D, D).

        Projections vary as much as vectors do on average, so that the weight of the commitment
        loss keeps its meaning. The way back is the least-squares fit. Every rank must call it.

        Raises:
            ConfigError: fewer vectors on all ranks than dimensions of a code, or no gradient.
        """
        total, mean, covariance = moments(vectors)
        wide, narrow = self.project_in.in_features, self.project_in.out_features
        if total <= narrow or not sensitivity.any():
            raise ConfigError(
                f"{total:g} vectors cannot show the {narrow} directions that matter most; lower "
                "--quantize-code-dim or raise --kmeans-vectors"
            )
        values, directions = torch.linalg.eigh(sensitivity.double())  # in ascending order
        inward = (directions[:, -narrow:] * values[-narrow:].clamp(min=0).sqrt()).T
        spread = inward @ covariance @ inward.T
        scale = (covariance.trace() / wide / (spread.trace() / narrow)).sqrt()
        inward, spread = inward * scale, spread * scale.square()
        ridge = _RIDGE * spread.trace() / narrow * torch.eye(narrow, dtype=spread.dtype)
        outward = torch.linalg.solve(spread + ridge.to(spread.device), inward @ covariance).T
        fill(self.project_in, inward, -inward @ mean)
        fill(self.project_out, outward, mean)
