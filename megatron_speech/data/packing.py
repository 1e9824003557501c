"""Packing whole documents into windows: best fit, longest first, over lengths instead of documents.

Documents of one length are alike, so windows are planned from the number of documents of each
length alone (Krell et al., arXiv 2107.02027): the work of the plan does not grow with the corpus,
and the documents are then dealt out by whole arrays.
"""

from bisect import bisect_left, insort

import numpy as np
from jaxtyping import Integer

Contents = tuple[tuple[int, int], ...]
"""Lengths in a window, and how many documents of each."""


def pack_documents(
    lengths: Integer[np.ndarray, " n"], capacity: int, order: Integer[np.ndarray, " m"]
) -> tuple[np.ndarray, np.ndarray]:
    """Put documents into windows of `capacity` slots, none split, none twice.

    `lengths` counts the slots each document takes; `order` lists the documents to pack: among
    documents of one length it decides which goes where. Documents longer than `capacity`, or
    empty, are left out. Deterministic.

    Returns `documents` (kept,), the document numbers window after window, and `starts`
    (windows + 1,), where each window begins in `documents`. Windows of one make lie together.
    """
    taken = lengths[order]
    fits = (taken > 0) & (taken <= capacity)
    order, taken = order[fits], taken[fits]
    counts = np.bincount(taken, minlength=capacity + 1)
    waiting = order[np.argsort(taken.astype(np.min_scalar_type(capacity)), kind="stable")]
    next_of = np.cumsum(counts) - counts
    blocks, sizes = [np.zeros(0, order.dtype)], [np.zeros(1, np.int64)]
    for windows, contents in _plan(counts, capacity):
        block = np.empty((windows, sum(count for _, count in contents)), order.dtype)
        column = 0
        for length, count in contents:
            first, last = next_of[length], next_of[length] + windows * count
            block[:, column : column + count] = waiting[first:last].reshape(windows, count)
            next_of[length], column = last, column + count
        blocks.append(block.ravel())
        sizes.append(np.full(windows, column, np.int64))
    return np.concatenate(blocks), np.cumsum(np.concatenate(sizes))


def _plan(counts: np.ndarray, capacity: int) -> list[tuple[int, Contents]]:
    """How many windows of which contents hold `counts[length]` documents of each length."""
    full: list[tuple[int, Contents]] = []
    by_free: dict[int, list[tuple[int, Contents]]] = {}
    frees: list[int] = []  # keys of by_free, ascending
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            place = bisect_left(frees, length)
            free = frees[place] if place < len(frees) else capacity
            each = min(free // length, left)
            if place < len(frees):
                windows, contents = by_free[free].pop()
                used = min(windows, left // each)
                if windows > used:
                    by_free[free].append((windows - used, contents))
                elif not by_free[free]:
                    del by_free[free], frees[place]
            else:
                used, contents = left // each, ()
            filled, free = (used, (*contents, (length, each))), free - each * length
            left -= used * each
            if not free:
                full.append(filled)
                continue
            if free not in by_free:
                by_free[free] = []
                insort(frees, free)
            by_free[free].append(filled)
    return full + [group for free in frees for group in by_free[free]]
