"""How far a low-precision score may be off: what the reference and the fused look-up share.

Scores are s_k = x.c_k - |c_k|^2 / 2; the nearest code has the largest, and |x|^2, the same for
all, rounds nothing away. A first pass computes them in fp32 with an error of at most e. The best
code cannot have a score below (largest score) - 2 e: the codes at or above that threshold are
compared exactly.

Vectors and codes are scaled by powers of two, which is exact: codes by one for the whole codebook,
each vector by the same or, where it is more than 2^40 times longer than every code, by its own.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_speech.errors import DataError

_FAR = 40


@dataclass(frozen=True, kw_only=True)
class Codes:
    """What a pass over the codebook finds before any look-up."""

    bias: Tensor
    """-|c|^2 / 2 of the scaled codes, (K,) fp32; -inf for codes not finite or repeated."""
    exponent: int
    """Codes are scaled by 2^-exponent."""
    radius: float
    """Length of the longest scaled code that counts."""


def describe_codes(codebook: Tensor, squares: Tensor, scale: bool) -> Codes:
    """Sum up a codebook (K, D) whose squared norms (K,) fp64 are `squares`.

    `scale` False leaves the exponent at 0, for passes that read the codebook as it is.
    """
    usable = squares.isfinite() & ~_repeated(codebook, squares)
    largest = torch.where(usable, squares, 0).amax().item()
    exponent = (math.frexp(largest)[1] - 1) // 2 if scale and largest > 0 else 0
    halves = torch.where(usable, squares * -0.5, -math.inf)
    bias = halves * 2.0 ** (-2 * exponent)
    return Codes(bias=bias.float(), exponent=exponent, radius=math.sqrt(largest) * 2.0**-exponent)


def check_finite(squares: Tensor, noun: str, first: int = 0) -> None:
    """Refuse rows that are not finite, from their squared norms (N,); `first` is their number.

    Raises:
        DataError: at least one row holds NaN or inf.
    """
    if not squares.isfinite().all():
        row = first + int((~squares.isfinite()).nonzero()[0])
        raise DataError(
            f"vq_lookup got NaN or inf in {noun} {row}; expected finite numbers. "
            "Look for the first step or file that produced them"
        )


def row_exponents(squares: Tensor, codes: Codes) -> Tensor:
    """Exponent (N,) int32 by which each vector is scaled, from squared norms (N,) fp64."""
    finite = torch.where(squares.isfinite(), squares, 0)
    own = torch.div(torch.frexp(finite)[1] - 1, 2, rounding_mode="floor") - _FAR
    return own.clamp(min=codes.exponent).int()


def scale(x: Tensor, exponents: Tensor) -> Tensor:
    """x * 2^-exponents in fp32; two factors, since one may not fit fp32."""
    half = exponents >> 1
    first, second = (torch.exp2(-e.double()).float() for e in (half, exponents - half))
    return x.float() * first * second


def error_unit(width: int, products: int = 1) -> float:
    """Largest error of x.c relative to |x||c|.

    Tensor cores add blocks of 16 products, each cut to fp32 of the largest: 17/16 of 2^-23 for each
    of the `products` * D terms; plain fp32 sums stay well within that. More than one product means
    operands split into bf16 terms, which leave out 3 * 2^-16.
    """
    split = 2.0**-14 if products > 1 else 0.0
    return (17 / 16 * products * width + 64) * 2.0**-23 + split


def thresholds(
    best: Tensor,
    squares: Tensor,
    exponents: Tensor,
    codes: Codes,
    unit: float,
    bias_unit: float = 2.0**-20,
) -> Tensor:
    """Score (N,) fp32 below which no code can be the nearest; NaN for vectors that are not finite.

    `best` (N,) is the largest computed score of each vector, `squares` its unscaled |x|^2 in fp64.
    The error is `unit` |x||c| + `bias_unit` |c|^2 / 2: the second part is a few roundings where the
    bias is added last, and `unit` where a library may add products to it. Only codes within
    |x| + distance of the origin can be meant: a far one spoils no other's bound.
    """
    best = best.double()
    shift = exponents.double()
    reach = squares.sqrt() * torch.exp2(-shift)
    distance = (reach.square() - 2 * best).clamp(min=0).sqrt()
    slack = 2 * math.sqrt(unit)
    near = (reach * (1 + slack) + distance) / max(1 - slack, 1e-9)
    radius = near.clamp(max=codes.radius)
    error = unit * reach * radius + bias_unit / 2 * radius.square() + 2.0**-80
    # A vector with a scale of its own is compared with codes of no norm.
    error += torch.where(shift > codes.exponent, radius.square(), 0)
    limit = best - 2 * error
    return torch.where(squares.isfinite() & best.isfinite(), limit, math.nan).float()


def _repeated(codebook: Tensor, squares: Tensor) -> Tensor:
    """True (K,) for most codes equal to an earlier one; the rest cost time, not correctness.

    Without this a collapsed codebook would make every code a candidate of every vector.
    """
    order = squares.sort(stable=True).indices
    same = squares[order[1:]] == squares[order[:-1]]
    repeated = torch.zeros_like(squares, dtype=torch.bool)
    for pair in same.nonzero().flatten().split(max((1 << 20) // codebook.shape[1], 1)):
        later, earlier = order[pair + 1], order[pair]
        repeated[later] = (codebook[later] == codebook[earlier]).all(dim=1)
    return repeated
