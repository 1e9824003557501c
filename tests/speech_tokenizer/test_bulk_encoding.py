import threading

import numpy as np

from megatron_speech.speech_tokenizer.bulk import encoding
from megatron_speech.speech_tokenizer.bulk.encoding import ShardEncoder


class Pair:
    """Stands in for a tokenizer: a batch is encoded only once the next one is being prepared."""

    def __init__(self, batches: int):
        self._batches, self._encoded = batches, 0
        self._begun = [threading.Event() for _ in range(batches)]

    def prepare_batch(self, windows):
        next(event for event in self._begun if not event.is_set()).set()
        return [np.full(2, window[0], np.int64) for window in windows]

    def encode_batch(self, codes):
        self._encoded += 1
        if self._encoded < self._batches:
            assert self._begun[self._encoded].wait(60)
        return codes


def test_features_are_prepared_while_the_batch_before_is_encoded(monkeypatch):
    monkeypatch.setattr(encoding, "SORTED_BATCHES", 2)
    encoder = ShardEncoder(Pair(5), 20)  # pyright: ignore[reportArgumentType]
    for number in range(10):
        encoder.add(number // 2, np.full(10, number, np.float32))
    codes = encoder.finish()
    assert {n: found.tolist() for n, found in codes.items()} == {
        n: [2 * n, 2 * n, 2 * n + 1, 2 * n + 1] for n in range(5)
    }
