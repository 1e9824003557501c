"""Triton kernels over single rows: fp64 scores of candidates, norms, the largest two."""

import triton
import triton.language as tl


@triton.jit
def load_rows(source, rows, inside, k, width, stride, BLOCK_D: tl.constexpr):
    """(rows, BLOCK_D) tile at column k; zero outside."""
    columns = k + tl.arange(0, BLOCK_D)
    mask = inside[:, None] & (columns < width)[None, :]
    return tl.load(source + rows.to(tl.int64)[:, None] * stride + columns[None, :], mask, other=0.0)


@triton.jit
def float_scores(
    x, codebook, keys, scores, magnitudes, num_keys, num_codes, width, x_stride, c_stride,
    BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Scores of (row, code) pairs summed in fp64, in which their products are exact, and the sums
    of |terms|, to which what rounding did is proportional."""
    pairs = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    valid = pairs < num_keys
    key = tl.load(keys + pairs, valid, other=0)
    total = tl.zeros((BLOCK_P, BLOCK_D), tl.float64)
    magnitude = tl.zeros((BLOCK_P, BLOCK_D), tl.float64)
    for k in tl.range(0, width, BLOCK_D):
        a = load_rows(x, key // num_codes, valid, k, width, x_stride, BLOCK_D)
        b = load_rows(codebook, key % num_codes, valid, k, width, c_stride, BLOCK_D)
        a = a.to(tl.float32).to(tl.float64)
        b = b.to(tl.float32).to(tl.float64)
        total += a * b - b * b * 0.5
        magnitude += tl.abs(a * b) + b * b * 0.5
    tl.store(scores + pairs, tl.sum(total, 1), valid)
    tl.store(magnitudes + pairs, tl.sum(magnitude, 1), valid)


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
def largest_two(scores, best, first, second, num_codes, stride, BLOCK_N: tl.constexpr):
    """Largest score of a row (N,), its lowest index (N,) int64, and the largest of the others (N,).

    One read of the row: each lane keeps the two largest it saw; NaN is never the largest.
    """
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK_N)
    value1 = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    value2 = value1
    index1 = lanes
    for start in tl.range(0, num_codes, BLOCK_N):  # pyright: ignore[reportGeneralTypeIssues]
        codes = start + lanes
        value = tl.load(scores + row * stride + codes, codes < num_codes, other=float("-inf"))
        value2 = tl.maximum(value2, tl.minimum(value1, value))
        index1 = tl.where(value > value1, codes, index1)
        value1 = tl.maximum(value1, value)
    largest = tl.max(value1, 0)
    chosen = tl.min(tl.where(value1 == largest, index1, 2147483647), 0)
    others = tl.where((value1 == largest) & (index1 == chosen), value2, value1)
    tl.store(best + row, largest)
    tl.store(first + row, chosen.to(tl.int64))
    tl.store(second + row, tl.max(others, 0))
