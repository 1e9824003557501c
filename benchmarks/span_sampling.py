"""Choosing spans for documents of about 900 tokens, a batch at a time, against one at a time.

python benchmarks/span_sampling.py

Words are counted beforehand: splitting texts is part of tokenising them.
"""

import time

import numpy as np
import torch
from common import report, sized, time_pair

from megatron_speech.interleaving.spans import SpanConfig, sample_word_spans
from megatron_speech.jobs.randomness import document_keys

DOCUMENTS, BATCH = sized(20_480, 2_048), 1024
WORDS_PER_DOCUMENT = 690  # 900 tokens at 1.3 tokens a word
ALONE = 256  # documents the one-at-a-time loop gets; its time is scaled up


def main() -> None:
    config = SpanConfig()
    words = np.random.default_rng(0).poisson(WORDS_PER_DOCUMENT, DOCUMENTS)
    names = [f"document-{number}" for number in range(DOCUMENTS)]

    def batches() -> list[np.ndarray]:
        found = []
        for first in range(0, DOCUMENTS, BATCH):
            part = slice(first, first + BATCH)
            spans = sample_word_spans(words[part], document_keys(0, names[part]), config)
            found.append(np.stack([spans.document + first, spans.start, spans.stop]))
        return found

    def alone() -> list[np.ndarray]:
        found = []
        for number in range(ALONE):
            keys = document_keys(0, names[number : number + 1])
            spans = sample_word_spans(words[number : number + 1], keys, config)
            found.append(np.stack([spans.document + number, spans.start, spans.stop]))
        return found

    together, single = np.concatenate(batches(), axis=1), np.concatenate(alone(), axis=1)
    if not np.array_equal(together[:, together[0] < ALONE], single):
        raise SystemExit("batches and single documents give different spans: no times are shown")
    covered = np.bincount(together[0], together[2] - together[1])
    if not np.array_equal(covered, np.ceil(0.3 * words - 1e-9)):
        raise SystemExit("coverage is not ceil(eta x words): no times are shown")
    times = time_pair(batches, alone, rounds=3, clock=time.process_time)
    figures = {
        "documents_per_core_s": DOCUMENTS / times["ours_s"],
        "documents_per_core_s_alone": ALONE / times["peer_s"],
        "spans": int(together.shape[1]),
        "mean_span_words": float((together[2] - together[1]).mean()),
    }
    report("span_sampling", "the same function, document by document", figures)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
