"""Counts and sums of vectors by code, as a segmented sum."""

import torch


def segmented_sums(
    x: torch.Tensor, indices: torch.Tensor, num_codes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, D) vectors and (N,) codes -> fp32 counts (K,) and sums (K, D), without a one-hot."""
    sums = torch.zeros(num_codes, x.shape[1], dtype=torch.float32, device=x.device)
    sums.index_add_(0, indices, x.float())
    counts = torch.bincount(indices, minlength=num_codes).float()
    return counts, sums
