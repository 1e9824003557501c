"""Exact comparison of candidate codes, in plain torch."""

import torch
from torch import Tensor

_TERMS_PER_BATCH = 1 << 20


def best_codes(x: Tensor, codebook: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
    """Best code of each row that has candidates, in the order of rows; the lowest of equal ones.

    Candidates are pairs (rows[i], codes[i]), (P,) int64 each, in ascending order.
    """
    order = torch.arange(len(rows))
    for score in reversed(_exact_scores(x, codebook, rows, codes)):
        order = order[score[order].argsort(stable=True, descending=True)]
    order = order[rows[order].argsort(stable=True)]
    counts = rows.unique_consecutive(return_counts=True)[1]
    return codes[order[counts.cumsum(0) - counts]]


def _exact_scores(
    x: Tensor, codebook: Tensor, rows: Tensor, codes: Tensor
) -> tuple[Tensor, Tensor]:
    """x.c - |c|^2 / 2 of each pair as an unevaluated sum of two fp64, about 106 bits.

    Products of fp32 are exact in fp64; sums carry their rounding error along (Ogita, Rump and
    Oishi's Dot2), here in a tree.
    """
    size = max(_TERMS_PER_BATCH // x.shape[1], 1)
    high, low = [rows.new_empty(0, dtype=torch.float64)], [rows.new_empty(0, dtype=torch.float64)]
    for part_rows, part_codes in zip(rows.split(size), codes.split(size), strict=True):
        c = codebook[part_codes].double()
        total = torch.cat([x[part_rows].double() * c, c.square() * -0.5], dim=1)
        error = torch.zeros_like(total)
        while total.shape[1] > 1:
            half = (total.shape[1] + 1) // 2
            pad = (0, 2 * half - total.shape[1])
            left, right = torch.nn.functional.pad(total, pad).split(half, dim=1)
            carried = torch.nn.functional.pad(error, pad).split(half, dim=1)
            total, lost = _two_sum(left, right)
            error = carried[0] + carried[1] + lost
        total, error = _two_sum(total, error)
        high.append(total.flatten())
        low.append(error.flatten())
    return torch.cat(high), torch.cat(low)


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b rounded, and exactly what rounding left out (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)
