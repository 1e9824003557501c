"""Counts and sums of vectors by code, as a segmented sum."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def segmented_sums(
    x: Float[Tensor, "n d"], indices: Int64[Tensor, " n"], num_codes: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k d"]]:
    """(N, D) vectors and (N,) codes -> fp32 counts (K,) and sums (K, D), without a one-hot."""
    sums = torch.zeros(num_codes, x.shape[1], dtype=torch.float32, device=x.device)
    sums.index_add_(0, indices, x.float())
    counts = torch.bincount(indices, minlength=num_codes).float()
    return counts, sums
