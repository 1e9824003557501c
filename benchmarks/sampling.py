"""Indices of an epoch over five million documents, against GPTDataset and packing one by one.

python benchmarks/sampling.py
"""

import resource
import tempfile
import time
from bisect import bisect_left, insort
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from common import report, sized

from megatron_speech.data.epochs import cut_epoch
from megatron_speech.data.packing import pack_documents

DOCUMENTS, CAPACITY = sized(5_000_000, 50_000), 8192


def main() -> None:
    """Time packing and cutting; the packings of both must fill windows equally or better."""
    lengths = np.random.default_rng(0).integers(20, 600, DOCUMENTS).astype(np.int32)
    order = np.random.default_rng(1).permutation(np.arange(DOCUMENTS, dtype=np.int32))
    figures: dict[str, float] = {"documents": DOCUMENTS, "seq_length": CAPACITY}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    documents, starts = pack_documents(lengths, CAPACITY, order)
    figures["packing_s"] = time.process_time() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures["packing_extra_mib"] = (after - before) / 1024
    if not np.array_equal(np.sort(documents), np.arange(DOCUMENTS)):
        raise SystemExit("documents were lost: no times are shown")
    began = time.process_time()
    windows = _one_by_one(lengths, order)
    figures["packing_one_by_one_s"] = time.process_time() - began
    if len(starts) - 1 > windows:
        raise SystemExit("more windows than one by one: no times are shown")
    figures["windows"], figures["windows_one_by_one"] = len(starts) - 1, windows
    figures["fill"] = float(lengths[documents].sum() / ((len(starts) - 1) * CAPACITY))
    with tempfile.TemporaryDirectory() as folder:
        figures |= _cut(Path(folder), lengths)
    report("sampling", "best fit document by document; GPTDataset", figures)


def _cut(folder: Path, lengths: np.ndarray) -> dict[str, float]:
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDataset, _IndexWriter
    from megatron.core.datasets.utils import Split

    prefix = folder / "data"
    with _IndexWriter(f"{prefix}.idx", np.int32) as writer:
        writer.write(lengths.tolist(), None, list(range(DOCUMENTS + 1)))
    with open(f"{prefix}.bin", "wb") as stream:  # zeros that take no room
        stream.truncate(4 * int(lengths.sum(dtype=np.int64)))
    indexed = IndexedDataset(str(prefix))
    documents = np.arange(DOCUMENTS, dtype=np.int32)
    began = time.process_time()
    epoch = cut_epoch(indexed.sequence_lengths, CAPACITY, documents, np.random.default_rng(0))
    ours = time.process_time() - began
    settings = GPTDatasetConfig(
        random_seed=0,
        sequence_length=CAPACITY,
        split="1",
        tokenizer=SimpleNamespace(eod=0, vocab_size=100_000, unique_identifiers={}),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        path_to_cache=str(folder),
    )
    began = time.process_time()
    peer = GPTDataset(indexed, str(prefix), documents, None, Split.train, settings)
    seconds = time.process_time() - began
    if len(peer) != len(epoch.order):
        raise SystemExit("GPTDataset cuts another number of windows: no times are shown")
    return {"cutting_s": ours, "cutting_gptdataset_s": seconds}


def _one_by_one(lengths: np.ndarray, order: np.ndarray, open_windows: int = 64) -> int:
    """Windows of best fit over a bounded set of open ones."""
    free: list[int] = []
    windows = 0
    for length in lengths[order].tolist():
        place = bisect_left(free, length)
        if place < len(free):
            left = free.pop(place)
        else:
            left, windows = CAPACITY, windows + 1
        if left > length:
            insort(free, left - length)
            if len(free) > open_windows:
                free.pop(0)
    return windows


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
