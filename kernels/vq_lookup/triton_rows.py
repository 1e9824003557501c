"""Triton kernels over single rows: exact scores of candidates, norms, gathered codes."""

import triton
import triton.language as tl


@triton.jit
def load_rows(source, rows, inside, k, width, stride, BLOCK_D: tl.constexpr):
    """(rows, BLOCK_D) tile at column k; zero outside."""
    columns = k + tl.arange(0, BLOCK_D)
    mask = inside[:, None] & (columns < width)[None, :]
    return tl.load(source + rows.to(tl.int64)[:, None] * stride + columns[None, :], mask, other=0.0)


@triton.jit
def two_sum(a, b):
    """a + b rounded, and exactly what rounding left out (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@triton.jit
def exact_scores(
    x, codebook, keys, high, low, num_keys, num_codes, width, x_stride, c_stride,
    BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr, BITS_D: tl.constexpr
):  # fmt: skip
    """Scores of (row, code) pairs as unevaluated sums of two fp64, about 90 bits.

    Products of fp32 are exact in fp64 and each sum carries its rounding error along (Ogita, Rump
    and Oishi's Dot2), so scores differ only where exact arithmetic differs. BLOCK_D < 2^BITS_D.
    """
    pairs = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    valid = pairs < num_keys
    key = tl.load(keys + pairs, valid, other=0)
    total = tl.zeros((BLOCK_P, BLOCK_D), tl.float64)
    error = tl.zeros((BLOCK_P, BLOCK_D), tl.float64)
    for k in tl.range(0, width, BLOCK_D):
        a = load_rows(x, key // num_codes, valid, k, width, x_stride, BLOCK_D)
        b = load_rows(codebook, key % num_codes, valid, k, width, c_stride, BLOCK_D)
        a = a.to(tl.float32).to(tl.float64)
        b = b.to(tl.float32).to(tl.float64)
        total, lost = two_sum(total, a * b)
        error += lost
        total, lost = two_sum(total, b * b * -0.5)
        error += lost
    # Columns are added in two parts. The first is cut to multiples of 2^-52 of a power of two above
    # any sum of them, so that it adds up without rounding; the second is some 2^-50 of it.
    largest = tl.max(tl.abs(total), 1).to(tl.int64, bitcast=True)
    above = (((largest >> 52) + BITS_D + 1) << 52).to(tl.float64, bitcast=True)
    first = (total + above[:, None]) - above[:, None]
    total, error = two_sum(tl.sum(first, 1), tl.sum((total - first) + error, 1))
    tl.store(high + pairs, total, valid)
    tl.store(low + pairs, error, valid)


@triton.jit
def pick_best(keys, high, low, indices, num_keys, num_codes, BLOCK: tl.constexpr):
    """indices[row] = code of the largest score among the row's keys, which lie side by side.

    Keys ascend, so that a later code must be strictly better: the lowest of equal ones wins.
    """
    pairs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = pairs < num_keys
    key = tl.load(keys + pairs, valid, other=0)
    rows = key // num_codes
    before = tl.load(keys + pairs - 1, valid & (pairs > 0), other=-1)
    starts = valid & ((pairs == 0) | (before // num_codes != rows))
    best = key
    best_high = tl.load(high + pairs, valid, other=0.0)
    best_low = tl.load(low + pairs, valid, other=0.0)
    active = starts
    at = pairs
    while tl.max(active.to(tl.int32), 0) > 0:
        at += 1
        active = active & (at < num_keys)
        key = tl.load(keys + at, active, other=-1)
        active = active & (key // num_codes == rows)
        next_high = tl.load(high + at, active, other=0.0)
        next_low = tl.load(low + at, active, other=0.0)
        better = (next_high > best_high) | ((next_high == best_high) & (next_low > best_low))
        better = better & active
        best = tl.where(better, key, best)
        best_high = tl.where(better, next_high, best_high)
        best_low = tl.where(better, next_low, best_low)
    tl.store(indices + rows, best % num_codes, starts)


@triton.jit
def squared_norms(
    x, squares, num_rows, width, stride, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Squared L2 norm of each row, (N,) fp64; not finite where the row is not."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    total = tl.zeros((BLOCK_M, BLOCK_D), tl.float64)
    for k in tl.range(0, width, BLOCK_D):
        tile = load_rows(x, rows, rows < num_rows, k, width, stride, BLOCK_D)
        tile = tile.to(tl.float32).to(tl.float64)
        total += tile * tile
    tl.store(squares + rows, tl.sum(total, 1), rows < num_rows)


@triton.jit
def gather_codes(
    x, codebook, indices, quantized, distances, num_rows, width, x_stride, c_stride,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Rows of the codebook at `indices` (N, D), and their squared distance to x (N,) fp32."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = rows < num_rows
    codes = tl.load(indices + rows, inside, other=0)
    total = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for k in tl.range(0, width, BLOCK_D):
        a = load_rows(x, rows, inside, k, width, x_stride, BLOCK_D)
        b = load_rows(codebook, codes, inside, k, width, c_stride, BLOCK_D)
        gap = a.to(tl.float32) - b.to(tl.float32)
        total += gap * gap
        columns = k + tl.arange(0, BLOCK_D)
        place = rows.to(tl.int64)[:, None] * width + columns[None, :]
        tl.store(quantized + place, b, inside[:, None] & (columns < width)[None, :])
    tl.store(distances + rows, tl.sum(total, 1), inside)
