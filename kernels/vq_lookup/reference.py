"""Nearest code by squared L2 distance: a chunked matrix product whose near-ties are settled."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .bounds import check_finite, describe_codes, error_unit, row_exponents, scale, thresholds
from .exact import best_codes, float_scores

_SCORES_PER_CHUNK = 1 << 22
_TERMS_PER_CHUNK = 1 << 17


@torch.no_grad()
@torch.autocast("cpu", enabled=False)  # the error bound is that of fp32 products
def nearest_codes(
    x: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"], checked: bool = False
) -> Int64[Tensor, " n"]:
    """(N, D) and (K, D) -> (N,) int64 of exact arithmetic, the lowest of equal ones; 0 for NaN."""
    squares = squared_norms(codebook)
    if checked:
        check_finite(squares, "code")
        check_finite(squared_norms(x), "vector")
    codes = describe_codes(codebook, squares, scale=True)
    finite = torch.where(squares.isfinite()[:, None], codebook, 0)
    transposed = scale(finite, torch.tensor(codes.exponent)).t().to(_product_dtype())
    unit = error_unit(x.shape[1])
    size = max(_SCORES_PER_CHUNK // codebook.shape[0], 1)
    indices = torch.zeros(x.shape[0], dtype=torch.int64)
    for part, chosen in zip(x.split(size), indices.split(size), strict=True):
        part_squares = squared_norms(part)
        exponents = row_exponents(part_squares, codes)
        scaled = scale(part, exponents[:, None]).to(transposed.dtype)
        scores = torch.addmm(codes.bias.to(transposed.dtype), scaled, transposed).float()
        best, first = scores.max(dim=1)
        limit = thresholds(best, part_squares, exponents, codes, unit, bias_unit=unit)
        chosen.copy_(torch.where(limit.isnan(), 0, first))
        close = scores.scatter_(1, first[:, None], -torch.inf).amax(dim=1) >= limit
        scores, limit = scores[close].scatter_(1, first[close, None], torch.inf), limit[close]
        rows, found = (scores >= limit[:, None]).nonzero().unbind(dim=1)
        part = part[close]
        pairs = (part, codebook, rows, found)
        chosen[close] = best_codes(*pairs, *float_scores(*pairs))
    return indices


def _product_dtype() -> torch.dtype:
    """fp32, but fp64 where torch may multiply fp32 on a CPU's bf16 units (`"medium"`)."""
    whole = torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee")
    return torch.float32 if whole else torch.float64


def squared_norms(x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """|x|^2 of each row in fp64; not finite where the row is not."""
    parts = x.split(max(_TERMS_PER_CHUNK // x.shape[1], 1))
    return torch.cat([part.double().square().sum(dim=1) for part in parts])
