"""Writing .bin/.idx from token arrays, against Megatron's own builder adding document by document.

python benchmarks/indexing.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from common import (
    report,
    require_same_dataset,
    sized,
    time_pair,
    word_vocabulary,
    write_one_by_one,
)

from megatron_speech.data.indexed import IndexedWriter

DOCUMENTS, TOKENS_PER_DOCUMENT = sized(20_000, 500), 400


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        vocab = word_vocabulary(Path(folder) / "vocab", 50_000, 16_384)
        random = np.random.default_rng(0)
        lengths = random.poisson(TOKENS_PER_DOCUMENT, DOCUMENTS)
        tokens = random.integers(0, vocab.size, lengths.sum()).astype(np.int64)
        documents = np.split(tokens, np.cumsum(lengths)[:-1])
        lists = [document.tolist() for document in documents]
        ours, peer = Path(folder) / "ours", Path(folder) / "peer"

        def write_ours() -> None:
            with IndexedWriter(ours, vocab) as writer:
                writer.add(tokens, lengths)

        def write_peer() -> None:
            write_one_by_one(peer, lists, vocab)

        write_ours()
        write_peer()
        require_same_dataset(ours, peer)
        figures = time_pair(write_ours, write_peer)
    figures["ours_mtok_per_s"] = len(tokens) / figures["ours_s"] / 1e6
    figures["peer_mtok_per_s"] = len(tokens) / figures["peer_s"] / 1e6
    report("indexing", "IndexedDatasetBuilder.add_document", figures)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
