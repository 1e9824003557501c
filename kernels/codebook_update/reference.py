"""Counts and sums of vectors by code, as a segmented sum."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

_ROWS_PER_CHUNK = 1 << 14


def segmented_sums(
    x: Float[Tensor, "n d"],
    indices: Int64[Tensor, " n"],
    num_codes: int,
    mask: Bool[Tensor, " n"] | None = None,
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k d"]]:
    """(N, D) vectors and (N,) codes -> fp32 counts (K,) and sums (K, D), without a one-hot.

    Rows are added in their order; those not in `mask` are left out, whatever they hold.
    """
    counts = torch.zeros(num_codes, dtype=torch.int64)
    sums = torch.zeros(num_codes, x.shape[1], dtype=torch.float32)
    for start in range(0, len(x), _ROWS_PER_CHUNK):
        rows = slice(start, start + _ROWS_PER_CHUNK)
        part, chosen = x[rows], indices[rows]
        if mask is not None:
            part, chosen = part[mask[rows]], chosen[mask[rows]]
        sums.index_add_(0, chosen, part.float())
        counts += torch.bincount(chosen, minlength=num_codes)
    return counts.float(), sums
