"""Codebook statistics: how many vectors each code got, and their sum."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from megatron_speech.errors import ConfigError

from . import reference


class CodebookSums(NamedTuple):
    """Statistics of N vectors over K codes."""

    counts: torch.Tensor
    """Vectors per code, (K,) fp32."""
    sums: torch.Tensor
    """Sum of the vectors of each code, (K, D) fp32."""


@torch.no_grad()
def codebook_sums(
    x: Float[Tensor, "n d"],
    indices: Int64[Tensor, " n"],
    num_codes: int,
    mask: Bool[Tensor, " n"] | None = None,
) -> CodebookSums:
    """Sum the rows of `x` (N, D) by their code `indices` (N,), leaving out those not in `mask`.

    fp32 accumulation in an order fixed by the input: the same bits every time, on CPU and GPU.

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
    counted = indices if mask is None else torch.where(mask, indices, 0)
    if counted.numel() and not 0 <= counted.min() <= counted.max() < num_codes:
        raise ConfigError(
            f"codebook_sums got codes {int(counted.min())}..{int(counted.max())}; "
            f"expected 0..{num_codes - 1}"
        )
    if x.is_cuda:
        from .triton_impl import segmented_sums

        return CodebookSums(*segmented_sums(x, indices, num_codes, mask))
    return CodebookSums(*reference.segmented_sums(x, indices, num_codes, mask))


__all__ = ["CodebookSums", "codebook_sums"]
