"""Exact comparison of candidate codes, in plain torch: long integers where fp64 cannot tell.

Candidates are pairs (rows[i], codes[i]), (P,) int64 each, those of one row side by side.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_TERMS_PER_BATCH = 1 << 18
# Products of fp32 are integers below 2^48 times 2^-345 at least; any sum fits 20 digits of 32 bits.
_LOWEST_EXPONENT = -345
_DIGITS = 20
_MASK = (1 << 32) - 1


def best_codes(
    x: Tensor, codebook: Tensor, rows: Tensor, codes: Tensor, scores: Tensor, magnitudes: Tensor
) -> Tensor:
    """Best code of each row that has candidates, in the order of rows; the lowest of equal ones.

    `scores` (P,) are x.c - |c|^2 / 2 as summed in fp64 in any order, `magnitudes` (P,) the sums of
    |terms|. Pairs that rounding leaves equal are scored again in integers.
    """
    numbers, row = rows.unique_consecutive(return_inverse=True)
    slack = magnitudes * (2 * x.shape[1] + 8) * 2.0**-52  # twice what 2 D roundings can do
    kept = scores + slack >= _reduced(scores - slack, row, len(numbers), "amax")[row]
    rows, codes, row = rows[kept], codes[kept], row[kept]
    counts = torch.bincount(row, minlength=len(numbers))
    best = torch.zeros_like(numbers).scatter_(0, row, codes)
    equal = (counts > 1)[row]
    if equal.any():
        best[counts > 1] = _best_by_integers(x, codebook, rows[equal], codes[equal])
    return best


def float_scores(x: Tensor, codebook: Tensor, rows: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """`scores` and `magnitudes` (P,) fp64 as `best_codes` takes them."""
    scores, magnitudes = [], []
    for a, c in _pairs(x, codebook, rows, codes):
        terms = torch.cat([a * c, c.square() * -0.5], dim=1)
        scores.append(terms.sum(dim=1))
        magnitudes.append(terms.abs().sum(dim=1))
    return torch.cat(scores), torch.cat(magnitudes)


def _best_by_integers(x: Tensor, codebook: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
    numbers, row = rows.unique_consecutive(return_inverse=True)
    scores = torch.cat([_integer_scores(a, c) for a, c in _pairs(x, codebook, rows, codes)])
    left = torch.ones_like(row, dtype=torch.bool)
    for digit in reversed(scores.unbind(dim=1)):
        digit = torch.where(left, digit, -1 << 63)
        left &= digit == _reduced(digit, row, len(numbers), "amax")[row]
    return _reduced(torch.where(left, codes, len(codebook)), row, len(numbers), "amin")


def _integer_scores(a: Tensor, c: Tensor) -> Tensor:
    """Exact a.c - |c|^2 / 2 of rows (P, D) of fp32 values in fp64: digits (P, 20), lowest first."""
    (a_whole, a_exponent), (c_whole, c_exponent) = (_as_integers(values) for values in (a, c))
    whole = torch.cat([a_whole * c_whole, -c_whole.square()], dim=1)
    shift = torch.cat([a_exponent + c_exponent, 2 * c_exponent - 1], dim=1) - _LOWEST_EXPONENT
    place, within = shift >> 5, shift & 31
    low, high = (whole & _MASK) << within, (whole >> 32) << within
    digits = whole.new_zeros(len(whole), _DIGITS)
    digits.scatter_add_(1, place, low & _MASK)
    digits.scatter_add_(1, place + 1, (low >> 32) + (high & _MASK))
    digits.scatter_add_(1, place + 2, high >> 32)
    for number in range(_DIGITS - 1):
        digits[:, number + 1] += digits[:, number] >> 32
        digits[:, number] &= _MASK
    return digits


def _as_integers(values: Tensor) -> tuple[Tensor, Tensor]:
    """Integers and exponents of 2 whose products the values are."""
    mantissas, exponents = torch.frexp(values)
    return (mantissas * 2.0**24).long(), exponents.long() - 24


def _pairs(
    x: Tensor, codebook: Tensor, rows: Tensor, codes: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Vectors and codes of the pairs in fp64, batch by batch."""
    size = max(_TERMS_PER_BATCH // x.shape[1], 1)
    for part_rows, part_codes in zip(rows.split(size), codes.split(size), strict=True):
        yield x[part_rows].double(), codebook[part_codes].double()


def _reduced(values: Tensor, row: Tensor, num_rows: int, how: str) -> Tensor:
    """Largest ("amax") or smallest ("amin") of the values (P,) of each row."""
    empty = values.new_zeros(num_rows)
    return empty.scatter_reduce_(0, row, values, how, include_self=False)
