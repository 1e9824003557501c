"""Nearest code by squared L2 distance, as a chunked matrix product."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_SCORES_PER_CHUNK = 1 << 22


def nearest_codes(x: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]) -> Int64[Tensor, " n"]:
    """Index of the nearest codebook row, (N, D) and (K, D) -> (N,) int64.

    Scores are x.c - |c|^2 / 2 in fp32: |x|^2 is the same for every code, and adding it would only
    round small differences away. The first of equal codes wins. At most a few MB of the N x K
    scores exist at a time.
    """
    codebook = codebook.float()
    bias = -0.5 * codebook.square().sum(dim=1)
    rows = max(_SCORES_PER_CHUNK // codebook.shape[0], 1)
    transposed = codebook.t()
    chunks = [torch.addmm(bias, part.float(), transposed).argmax(dim=1) for part in x.split(rows)]
    return torch.cat(chunks) if chunks else torch.zeros(0, dtype=torch.int64, device=x.device)
