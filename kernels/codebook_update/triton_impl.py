"""Counts and sums by code on a GPU: sort by code, then sum each code's run of rows.

No atomics: the order of additions is fixed by the input, so results are the same bits every time.
Runs longer than a piece are summed piece by piece and the pieces added in order: a code that has
collapsed onto half of the batch costs no more than the rest.
"""

# Launch options and constants of Triton kernels are not in their Python signatures.
# pyright: reportArgumentType=false, reportCallIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIECE = 1024
_MOST_PARTIAL_ROWS = 2048


def segmented_sums(
    x: Tensor, indices: Tensor, num_codes: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(N, D) vectors and (N,) codes -> fp32 counts (K,) and sums (K, D) of the rows in `mask`.

    Memory beyond inputs and outputs: the sorted order of the rows (about 40 bytes each) and at most
    2,048 rows of partial sums.
    """
    x = x if x.stride(1) == 1 else x.contiguous()
    number, width, device = len(x), x.shape[1], x.device
    keys = indices.int()
    if mask is not None:
        keys = torch.where(mask, keys, num_codes)
    keys, order = keys.sort(stable=True)
    bounds = torch.arange(num_codes + 1, dtype=torch.int32, device=device)
    starts = torch.searchsorted(keys, bounds)
    del keys
    counts = starts.diff()
    piece = _PIECE
    while 2 * number > piece * _MOST_PARTIAL_ROWS:
        piece *= 2
    pieces = ((counts + piece - 1) // piece).clamp(min=1)
    slots = torch.where(pieces > 1, pieces, 0)
    ends, slot_ends = pieces.cumsum(0), slots.cumsum(0)
    # At least as many as there are pieces, known without asking the device.
    most = num_codes + number // piece
    codes = torch.searchsorted(ends, torch.arange(most, device=device), right=True)
    sums = torch.empty(num_codes, width, dtype=torch.float32, device=device)
    partial = torch.empty(2 * (number // piece), width, dtype=torch.float32, device=device)
    block = 256
    with torch.cuda.device_of(x):
        _sum_pieces[(most, triton.cdiv(width, block))](
            x, order, starts, ends, pieces, slot_ends, codes, sums, partial, num_codes, width,
            x.stride(0), PIECE=piece, BLOCK_R=16, BLOCK_D=block,
        )  # fmt: skip
        _add_pieces[(num_codes, triton.cdiv(width, block))](
            pieces, slot_ends, partial, sums, width, BLOCK_D=block
        )
    return counts.float(), sums


@triton.jit
def _sum_pieces(
    x, order, starts, ends, pieces, slot_ends, codes, sums, partial, num_codes, width, x_stride,
    PIECE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Sum up to PIECE rows of one code, BLOCK_D columns of them.

    `order` (N,) lists the rows code by code, code k from starts[k] to starts[k + 1]. The only piece
    of a code goes to `sums` (K, D), one of several to `partial`.
    """
    code = tl.load(codes + tl.program_id(0))
    if code < num_codes:
        count = tl.load(pieces + code)
        number = tl.program_id(0) - (tl.load(ends + code) - count)
        start = tl.load(starts + code) + number * PIECE
        end = tl.minimum(tl.load(starts + code + 1), start + PIECE)
        columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        inside = columns < width
        total = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
        for first in tl.range(start, end, BLOCK_R):
            at = first + tl.arange(0, BLOCK_R)
            row = tl.load(order + at, at < end, other=0)
            mask = (at < end)[:, None] & inside[None, :]
            total += tl.load(x + row[:, None] * x_stride + columns[None, :], mask, other=0.0).to(
                tl.float32
            )
        slot = tl.load(slot_ends + code) - count + number
        place = tl.where(count > 1, partial + slot * width, sums + code * width)
        tl.store(place + columns, tl.sum(total, 0), inside)


@triton.jit
def _add_pieces(pieces, slot_ends, partial, sums, width, BLOCK_D: tl.constexpr):
    """Add the pieces of a code that has several, in order."""
    code = tl.program_id(0)
    count = tl.load(pieces + code)
    if count > 1:
        columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        inside = columns < width
        total = tl.zeros((BLOCK_D,), tl.float32)
        last = tl.load(slot_ends + code)
        for slot in tl.range(last - count, last):
            total += tl.load(partial + slot * width + columns, inside, other=0.0)
        tl.store(sums + code.to(tl.int64) * width + columns, total, inside)
