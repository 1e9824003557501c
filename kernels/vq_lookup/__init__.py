"""Vector quantization look-up: vectors -> nearest codes."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from megatron_speech.errors import ConfigError

from .reference import nearest_codes


class VqLookup(NamedTuple):
    """Result of `vq_lookup` for N vectors of width D."""

    indices: torch.Tensor
    """Nearest code of each vector, (N,) int64; the lowest index among equal ones."""
    quantized: torch.Tensor
    """Rows of the codebook at `indices`, (N, D), in the codebook's dtype."""
    squared_distances: torch.Tensor
    """Squared L2 distance to that row, (N,) fp32."""


def vq_lookup(x: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]) -> VqLookup:
    """Find the nearest row of `codebook` (K, D) for each row of `x` (N, D).

    Memory beyond the inputs and outputs is bounded: the N x K distances never exist at once.

    Raises:
        ConfigError: shapes that do not fit.
    """
    if x.ndim != 2 or codebook.ndim != 2 or x.shape[1] != codebook.shape[1]:
        raise ConfigError(
            f"vq_lookup got x {tuple(x.shape)} and codebook {tuple(codebook.shape)}; "
            "expected (N, D) and (K, D)"
        )
    if codebook.shape[0] == 0:
        raise ConfigError("vq_lookup got an empty codebook")
    indices = nearest_codes(x, codebook)
    quantized = codebook[indices]
    squared = (x.float() - quantized.float()).square().sum(dim=1)
    return VqLookup(indices, quantized, squared)


__all__ = ["VqLookup", "nearest_codes", "vq_lookup"]
