"""Codebook statistics: how many vectors each code got, and their sum."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from megatron_speech.errors import ConfigError

from .reference import segmented_sums


class CodebookSums(NamedTuple):
    """Statistics of N vectors over K codes."""

    counts: torch.Tensor
    """Vectors per code, (K,) fp32."""
    sums: torch.Tensor
    """Sum of the vectors of each code, (K, D) fp32."""


def codebook_sums(
    x: Float[Tensor, "n d"],
    indices: Int64[Tensor, " n"],
    num_codes: int,
    mask: Bool[Tensor, " n"] | None = None,
) -> CodebookSums:
    """Sum the rows of `x` (N, D) by their code `indices` (N,), leaving out those not in `mask`.

    Raises:
        ConfigError: an index outside 0..num_codes-1, or shapes that do not fit.
    """
    if (
        x.ndim != 2
        or indices.shape != x.shape[:1]
        or (mask is not None and mask.shape != x.shape[:1])
    ):
        raise ConfigError(
            f"codebook_sums got x {tuple(x.shape)}, indices {tuple(indices.shape)}; "
            "expected (N, D), (N,) and a mask of (N,)"
        )
    if mask is not None:
        x, indices = x[mask], indices[mask]
    if indices.numel() and not 0 <= indices.min() <= indices.max() < num_codes:
        raise ConfigError(
            f"codebook_sums got codes {int(indices.min())}..{int(indices.max())}; "
            f"expected 0..{num_codes - 1}"
        )
    return CodebookSums(*segmented_sums(x, indices, num_codes))


__all__ = ["CodebookSums", "codebook_sums"]
