"""Triton kernels that screen the codebook; `triton_impl` says how they fit together.

Letters: N vectors x (N, D), K codes (K, D), scores s = x.c - |c|^2 / 2 (the nearest code has the
largest). A *group* is a run of BLOCK_N codes. Rows are numbered within the chunk in hand.
"""

import triton
import triton.language as tl

from .triton_rows import load_rows

NONE = tl.constexpr(2147483647)


@triton.jit
def power_of_two(exponent):
    """2^exponent as fp32, exactly, for -126 <= exponent <= 127."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def scaled(tile, exponents):
    """tile * 2^-exponents in fp32; two steps, since one factor may not fit fp32."""
    half = exponents >> 1
    return tile.to(tl.float32) * power_of_two(-half) * power_of_two(half - exponents)


@triton.jit
def add_products(
    acc, a, b, a_exponents, b_exponent, A_TERMS: tl.constexpr, B_TERMS: tl.constexpr,
    SCALED: tl.constexpr, UPCAST: tl.constexpr
):  # fmt: skip
    """acc + a b^T on tensor cores: as they are, or scaled and split into bf16 terms.

    hi*hi + hi*lo + lo*hi leaves out lo*lo and what two bf16 terms do not hold of fp32: at most
    3 * 2^-16 of |a||b|, which the threshold allows for. UPCAST: the interpreter multiplies bf16 as
    if it were integers.
    """
    if SCALED:
        a = scaled(a, a_exponents[:, None])
        b = scaled(b, b_exponent)
        a_high = a.to(tl.bfloat16)
        b_high = b.to(tl.bfloat16)
        if UPCAST:
            a_high = a_high.to(tl.float32)
            b_high = b_high.to(tl.float32)
        acc = tl.dot(a_high, b_high.T, acc)
        if B_TERMS > 1:
            acc = tl.dot(a_high, (b - b_high.to(tl.float32)).to(a_high.dtype).T, acc)
        if A_TERMS > 1:
            acc = tl.dot((a - a_high.to(tl.float32)).to(b_high.dtype), b_high.T, acc)
    else:
        if UPCAST:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        acc = tl.dot(a, b.T, acc)
    return acc


@triton.jit
def load_tile(
    source, row, num_rows, k, width, stride, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
    TMA: tl.constexpr
):  # fmt: skip
    """(ROWS, BLOCK_D) tile at (row, k), by the bulk copy engine where strides allow."""
    if TMA:
        return source.load([row, k])
    else:
        rows = row + tl.arange(0, ROWS)
        return load_rows(source, rows, rows < num_rows, k, width, stride, BLOCK_D)


@triton.jit
def columns(k, width, BLOCK_D: tl.constexpr, PARTS: tl.constexpr):
    """Column of x that belongs to column k of a codebook in PARTS side by side, each padded."""
    if PARTS == 1:
        return k
    else:
        padded = tl.cdiv(width, BLOCK_D) * BLOCK_D
        return tl.where(k >= padded, k - padded, k)


@triton.jit
def columns_in_all(width, BLOCK_D: tl.constexpr, PARTS: tl.constexpr):
    """Columns of that codebook."""
    if PARTS == 1:
        return width
    else:
        return PARTS * (tl.cdiv(width, BLOCK_D) * BLOCK_D)


@triton.jit
def insert(value, group, value1, value2, value3, value4, group1, group2, group3):
    """Put a group's maximum among the four largest of each row; groups of three are kept."""
    group3 = tl.where(value > value2, group2, tl.where(value > value3, group, group3))
    group2 = tl.where(value > value1, group1, tl.where(value > value2, group, group2))
    group1 = tl.where(value > value1, group, group1)
    value4 = tl.maximum(value4, tl.minimum(value3, value))
    value3 = tl.maximum(value3, tl.minimum(value2, value))
    value2 = tl.maximum(value2, tl.minimum(value1, value))
    value1 = tl.maximum(value1, value)
    return value1, value2, value3, value4, group1, group2, group3


@triton.jit
def store_largest(
    values, groups, num_rows, rows, inside, value1, value2, value3, value4, group1, group2, group3
):
    tl.store(values + rows, value1, inside)
    tl.store(values + num_rows + rows, value2, inside)
    tl.store(values + 2 * num_rows + rows, value3, inside)
    tl.store(values + 3 * num_rows + rows, value4, inside)
    tl.store(groups + rows, group1, inside)
    tl.store(groups + num_rows + rows, group2, inside)
    tl.store(groups + 2 * num_rows + rows, group3, inside)


# An exponent of 1 must stay a value: constants have no bits to shift.
@triton.jit(do_not_specialize=["code_exponent"])
def group_maxima(
    x, codebook, bias, exponents, values, groups, num_rows, num_codes, width, x_stride, c_stride,
    code_exponent, num_groups, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, TMA: tl.constexpr, X_TERMS: tl.constexpr, C_TERMS: tl.constexpr,
    SCALED: tl.constexpr, UPCAST: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """Four largest group maxima of the scores of each row, and the groups of three of them.

    values (SPLITS, 4, num_rows) fp32, groups (SPLITS, 3, num_rows) int32. Neighbouring programs
    take the SPLITS parts of the codebook for the same rows, so that rows and codes in flight fit
    the L2 cache together. The loops are flattened: the copies of the next group run while the
    maxima of this one are taken, and one maximum per score is all that stands between two products.
    PARTS 2: the codebook is (K, 2 x padded D), an fp32 one as the sum of its halves in bf16.
    """
    split = tl.program_id(0) % SPLITS
    row = tl.program_id(0) // SPLITS * BLOCK_M
    rows = row + tl.arange(0, BLOCK_M)
    inside = rows < num_rows
    row_exponents = tl.load(exponents + rows, inside, other=0)
    none = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    zero = tl.zeros((BLOCK_M,), tl.int32)
    value1, value2, value3, value4 = none, none, none, none
    group1, group2, group3 = zero, zero, zero
    per_split = tl.cdiv(num_groups, SPLITS)
    last = tl.minimum(split * per_split + per_split, num_groups)
    code_width = columns_in_all(width, BLOCK_D, PARTS)
    for group in tl.range(split * per_split, last, flatten=True):
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in tl.range(0, code_width, BLOCK_D):
            column = columns(k, width, BLOCK_D, PARTS)
            a = load_tile(x, row, num_rows, column, width, x_stride, BLOCK_M, BLOCK_D, TMA)
            b = load_tile(
                codebook, group * BLOCK_N, num_codes, k, code_width, c_stride, BLOCK_N, BLOCK_D, TMA
            )
            acc = add_products(
                acc, a, b, row_exponents, code_exponent, X_TERMS, C_TERMS, SCALED, UPCAST
            )
        acc += tl.load(bias + group * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
        value1, value2, value3, value4, group1, group2, group3 = insert(
            tl.max(acc, 1), group, value1, value2, value3, value4, group1, group2, group3
        )
    store_largest(
        values + split * 4 * num_rows, groups + split * 3 * num_rows, num_rows, rows, inside,
        value1, value2, value3, value4, group1, group2, group3,
    )  # fmt: skip


@triton.jit
def merge_splits(values, groups, num_rows, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """Merge the parts of `group_maxima` into the part at 0."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_rows
    none = tl.full((BLOCK,), float("-inf"), tl.float32)
    zero = tl.zeros((BLOCK,), tl.int32)
    value1, value2, value3, value4 = none, none, none, none
    group1, group2, group3 = zero, zero, zero
    for split in tl.static_range(SPLITS):
        value = values + split * 4 * num_rows + rows
        group = groups + split * 3 * num_rows + rows
        for part in tl.static_range(4):
            # The fourth has no group; the three before it keep it out of the first three.
            number = tl.load(group + min(part, 2) * num_rows, inside)
            value1, value2, value3, value4, group1, group2, group3 = insert(
                tl.load(value + part * num_rows, inside), number,
                value1, value2, value3, value4, group1, group2, group3,
            )  # fmt: skip
    store_largest(
        values, groups, num_rows, rows, inside,
        value1, value2, value3, value4, group1, group2, group3,
    )  # fmt: skip


@triton.jit
def next_candidate(scores, codes, limit, after):
    """Lowest code above `after` whose score reaches the limit of its row, or NONE."""
    reached = (scores >= limit[:, None]) & (codes[None, :] > after[:, None])
    return tl.min(tl.where(reached, codes[None, :], NONE), 1)


@triton.jit(do_not_specialize=["code_exponent"])
def find_candidates(
    x, codebook, bias, exponents, thresholds, several, item_rows, item_groups, indices, keys,
    count, capacity, num_items, num_codes, width, x_stride, c_stride, code_exponent,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, X_TERMS: tl.constexpr,
    C_TERMS: tl.constexpr, SCALED: tl.constexpr, UPCAST: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """Codes of (row, group) items, sorted by group, whose score reaches the row's threshold.

    A row with one such code, and no other group to look at, is settled: `indices` gets it. Else
    row * K + code is appended to `keys`; `count` goes on counting when they are full.
    """
    items = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = items < num_items
    rows = tl.load(item_rows + items, valid, other=0)
    groups = tl.load(item_groups + items, valid, other=-1)
    first = tl.min(tl.where(valid, groups, NONE), 0)
    last = tl.max(groups, 0)
    limit = tl.load(thresholds + rows)
    row_exponents = tl.load(exponents + rows)
    unsettled = tl.load(several + rows) != 0
    code_width = columns_in_all(width, BLOCK_D, PARTS)
    for group in tl.range(first, last + 1):
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        codes = group * BLOCK_N + tl.arange(0, BLOCK_N)
        for k in tl.range(0, code_width, BLOCK_D):
            column = columns(k, width, BLOCK_D, PARTS)
            a = load_rows(x, rows, valid, column, width, x_stride, BLOCK_D)
            b = load_rows(codebook, codes, codes < num_codes, k, code_width, c_stride, BLOCK_D)
            acc = add_products(
                acc, a, b, row_exponents, code_exponent, X_TERMS, C_TERMS, SCALED, UPCAST
            )
        acc += tl.load(bias + codes)[None, :]
        limited = tl.where(groups == group, limit, float("inf"))
        code = next_candidate(acc, codes, limited, tl.full((BLOCK_M,), -1, tl.int32))
        following = next_candidate(acc, codes, limited, code)
        settled = (code < NONE) & (following == NONE) & (unsettled == 0)
        tl.store(indices + rows, code.to(tl.int64), settled)
        code = tl.where(settled, NONE, code)
        while tl.min(code, 0) < NONE:
            listed = code < NONE
            ones = tl.full((BLOCK_M,), 1, tl.int64)
            slots = tl.atomic_add(count + tl.zeros((BLOCK_M,), tl.int32), ones, mask=listed)
            key = rows.to(tl.int64) * num_codes + code
            tl.store(keys + slots, key, listed & (slots < capacity))
            code = next_candidate(acc, codes, limited, code)
