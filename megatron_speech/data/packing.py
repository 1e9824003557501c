"""Packing whole documents into windows: best fit over a bounded set of open windows."""

from bisect import bisect_left, insort

import numpy as np
from jaxtyping import Integer

OPEN_WINDOWS = 64


def pack_documents(
    lengths: Integer[np.ndarray, " n"], capacity: int, order: Integer[np.ndarray, " m"]
) -> tuple[np.ndarray, np.ndarray]:
    """Put documents into windows of `capacity` slots, none split, none twice.

    `lengths` counts the slots each document takes; `order` lists the documents to pack, in the
    order they arrive. Documents longer than `capacity`, or empty, are left out. A document goes
    into the fullest open window that still holds it. Deterministic.

    Returns `documents` (kept,), the document numbers window after window, and `starts`
    (windows + 1,), where each window begins in `documents`. Windows keep the order in which they
    were opened.
    """
    windows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (slots left, window), ascending
    for document in order.tolist():
        length = int(lengths[document])
        if not 0 < length <= capacity:
            continue
        place = bisect_left(free, (length, -1))
        if place < len(free):
            left, window = free.pop(place)
        else:
            left, window = capacity, len(windows)
            windows.append([])
        windows[window].append(document)
        if left > length:
            insort(free, (left - length, window))
            if len(free) > OPEN_WINDOWS:
                free.pop(0)
    counts = [len(window) for window in windows]
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    documents = np.array([d for window in windows for d in window], dtype=np.int64)
    return documents, starts


def pack_epochs(
    lengths: Integer[np.ndarray, " n"],
    capacity: int,
    indices: Integer[np.ndarray, " m"],
    num_windows: int | None,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pack epoch after epoch, each in its own random order, until `num_windows` are filled.

    Returns documents and window starts as `pack_documents`, and `shuffle` (windows,): the order
    in which windows are drawn, shuffled within each epoch.
    """
    all_documents, all_counts, shuffles, windows, epoch = [], [], [], 0, 0
    while epoch == 0 or (num_windows is not None and windows < num_windows):
        generator = np.random.default_rng([seed, epoch])
        documents, starts = pack_documents(lengths, capacity, generator.permutation(indices))
        count = len(starts) - 1
        if count == 0:
            break
        all_documents.append(documents)
        all_counts.append(np.diff(starts))
        shuffles.append(windows + generator.permutation(count))
        windows, epoch = windows + count, epoch + 1
    if not windows:
        empty = np.zeros(0, dtype=np.int64)
        return empty, np.zeros(1, dtype=np.int64), empty
    counts = np.concatenate(all_counts)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return np.concatenate(all_documents), starts, np.concatenate(shuffles)
