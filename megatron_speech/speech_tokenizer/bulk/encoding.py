"""Windows of one shard -> codes, in batches that the shard's contents alone decide."""

from array import array
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ..features import batches_by_length
from ..tokenizer import PreparedBatch, SpeechTokenizer

SORTED_BATCHES = 8
"""So many batches of audio are gathered, sorted by length and cut into batches."""
_UNDER_WAY = 2
"""Batches whose features are there or being prepared: one more than is being encoded."""

_Key = tuple[int, int]


class ShardEncoder:
    """Takes the windows of a shard's recordings in order and gives the codes of each recording.

    The features of the next batch are prepared by a thread while one is encoded. At most
    `SORTED_BATCHES` batches of audio are held. What shares a batch follows from the order
    and lengths of the windows, never from time or from how fast they came.
    """

    def __init__(self, tokenizer: SpeechTokenizer, batch_samples: int):
        self._tokenizer, self._batch_samples = tokenizer, batch_samples
        self._waiting: list[tuple[_Key, np.ndarray]] = []
        self._samples = 0
        self._thread = ThreadPoolExecutor(1, "features")
        self._under_way: deque[tuple[list[_Key], Future[PreparedBatch]]] = deque()
        # One array for all codes: many small ones between large ones would scatter the heap.
        self._codes = array("i")
        self._places: dict[int, dict[int, slice]] = {}
        self._windows: dict[int, int] = {}

    def add(self, recording: int, window: np.ndarray) -> None:
        """The next window (n,) of the shard's recording number `recording`."""
        number = self._windows.get(recording, 0)
        self._windows[recording] = number + 1
        self._waiting.append(((recording, number), window))
        self._samples += len(window)
        if self._samples >= SORTED_BATCHES * self._batch_samples:
            self._encode(keep_last=True)

    def finish(self) -> dict[int, np.ndarray]:
        """Codes (n,) by recording number, int64. The encoder is empty afterwards."""
        self._encode(keep_last=False)
        while self._under_way:
            self._collect()
        flat = np.array(self._codes, np.int64)
        codes = {
            recording: np.concatenate([flat[parts[number]] for number in sorted(parts)])
            for recording, parts in self._places.items()
        }
        self._codes, self._places, self._windows = array("i"), {}, {}
        return codes

    def _encode(self, keep_last: bool) -> None:
        """Encode what waits; the last batch is not full, and may wait for its like."""
        waiting, self._waiting = self._waiting, []
        batches = list(
            batches_by_length([len(window) for _, window in waiting], self._batch_samples)
        )
        if keep_last:
            self._waiting = [waiting[index] for index in sorted(batches.pop())]
        self._samples = sum(len(window) for _, window in self._waiting)
        for batch in batches:
            keys, windows = zip(*(waiting[index] for index in batch), strict=True)
            prepared = self._thread.submit(self._tokenizer.prepare_batch, windows)
            self._under_way.append((list(keys), prepared))
            if len(self._under_way) >= _UNDER_WAY:
                self._collect()

    def _collect(self) -> None:
        keys, prepared = self._under_way.popleft()
        found = self._tokenizer.encode_batch(prepared.result())
        for (recording, number), codes in zip(keys, found, strict=True):
            start = len(self._codes)
            self._codes.frombytes(codes.astype(np.int32).tobytes())
            self._places.setdefault(recording, {})[number] = slice(start, len(self._codes))
