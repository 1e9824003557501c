"""The look-up by a library's matrix products: chunks of scores in cache, one kernel, a recheck.

The simple route beside `triton_impl`, on any device, exact in the same way: scores in fp32 of bf16
terms (two of an fp32 or fp16 value), the largest two of each vector from one pass over them, and
vectors whose second is within the error bound (`bounds`) computed again and compared exactly
(`exact`). No step waits for the device but the recheck.
"""

# Constants of Triton kernels are not in their Python signatures.
# pyright: reportArgumentType=false, reportCallIssue=false

import torch
from torch import Tensor

from . import reference
from .bounds import (
    Codes,
    check_finite,
    describe_codes,
    error_unit,
    row_exponents,
    scale,
    thresholds,
)
from .exact import best_codes, float_scores

ROWS = 1_024
"""Of a chunk: its scores against 16,384 codes take 64 MiB, about a large GPU's L2 cache."""
_BLOCK_N = 1_024


@torch.no_grad()
@torch.autocast("cpu", enabled=False)
@torch.autocast("cuda", enabled=False)
def nearest_codes(
    x: Tensor, codebook: Tensor, checked: bool = False, rows: int = ROWS
) -> Tensor:  # fmt: skip
    """(N, D) and (K, D) -> (N,) int64 of exact arithmetic, the lowest of equal ones; 0 for NaN.

    Raises:
        DataError: `checked`, and a vector or code is not finite.
    """
    squares = _squared_norms(codebook)
    if checked:
        check_finite(squares, "code")
        check_finite(_squared_norms(x), "vector")
    search = _Search(codebook, describe_codes(codebook, squares, scale=True), squares)
    indices = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    close = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    chunks = (part.split(rows) for part in (x, indices, close))
    for part, chosen, near in zip(*chunks, strict=True):
        scores, limit, first, second = search.scores(part)
        chosen.copy_(torch.where(limit.isnan(), 0, first))
        torch.ge(second, limit, out=near)
        del scores
    for again in close.nonzero().flatten().split(rows):
        part = x[again]
        scores, limit, _, _ = search.scores(part)
        pairs = (scores >= limit[:, None]).nonzero().unbind(dim=1)
        indices[again] = best_codes(part, codebook, *pairs, *float_scores(part, codebook, *pairs))
    return indices


class _Search:
    """What all chunks need of the codebook (K, D)."""

    def __init__(self, codebook: Tensor, codes: Codes, squares: Tensor):
        finite = torch.where(squares.isfinite()[:, None], codebook, 0)
        exponent = torch.tensor(codes.exponent, device=codebook.device)
        self.codes = codes
        self.terms = _terms(scale(finite, exponent), codebook.dtype)

    def scores(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scores (n, K) fp32, limits (n,), and of the largest its index and what comes second."""
        squares = _squared_norms(x)
        exponents = row_exponents(squares, self.codes)
        terms = _terms(scale(x, exponents[:, None]), x.dtype)
        pairs = [(a, b) for i, a in enumerate(terms) for j, b in enumerate(self.terms) if i + j < 2]
        scores = _product(*pairs[0])
        for a, b in pairs[1:]:
            scores += _product(a, b)
        scores += self.codes.bias
        best, first, second = largest_two(scores)
        unit = error_unit(x.shape[1], len(pairs))
        return scores, thresholds(best, squares, exponents, self.codes, unit), first, second


def _terms(scaled: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """bf16 terms of fp32 values that came from `dtype`."""
    high = scaled.bfloat16()
    return [high] if dtype == torch.bfloat16 else [high, (scaled - high).bfloat16()]


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T of bf16 matrices, (n, K) fp32."""
    if a.is_cuda:
        return torch.mm(a, b.t(), out_dtype=torch.float32)
    return a.float() @ b.float().t()


def largest_two(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest score (n,), its lowest index (n,) int64 and the next largest score (n,) of (n, K)."""
    if scores.is_cuda:
        return largest_two_fused(scores)
    best, first = scores.max(dim=1)
    return best, first, scores.scatter(1, first[:, None], -torch.inf).amax(dim=1)


def largest_two_fused(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same by one kernel that reads each score once."""
    from .triton_rows import largest_two as kernel

    best, second = torch.empty(2, len(scores), device=scores.device).unbind()
    first = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    kernel[(len(scores),)](
        scores, best, first, second, scores.shape[1], scores.stride(0), BLOCK_N=_BLOCK_N
    )
    return best, first, second


def _squared_norms(x: Tensor) -> Tensor:
    if not x.is_cuda:
        return reference.squared_norms(x)
    from . import triton_impl

    return triton_impl.squared_norms(x)
