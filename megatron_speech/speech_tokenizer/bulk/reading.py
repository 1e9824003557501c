"""Recordings read ahead by several threads, handed over in order, within a bound on memory."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from ...data.reading import stream_recording
from ...data.recording import Recording
from ...errors import AudioError
from ..features import cut_windows

_MOST_ITEMS = 1024


def read_windows(recording: Recording, window_samples: int) -> Iterator[np.ndarray]:
    """16 kHz mono windows of a recording; the last holds what is left.

    Raises:
        AudioError: as `stream_audio`, possibly after some windows.
    """
    yield from cut_windows(stream_recording(recording), window_samples)


class _Slot[Item]:
    """What was read of one item and not handed over yet."""

    def __init__(self, item: Item):
        self.item = item
        self.windows: deque[np.ndarray] = deque()
        self.end: AudioError | None = None
        self.done = False


class ReadAhead[Item]:
    """Iterates over (item, window | AudioError | None): all windows of an item, then its end.

    Threads read several items at a time while at most `most_samples` wait to be handed over, and
    one window more. The end is None, or why the item must be set aside. Items are taken from their
    iterator by the threads, one at a time, no earlier than there is room. Close when done with it.
    """

    def __init__(
        self,
        items: Iterable[Item],
        read: Callable[[Item], Iterable[np.ndarray]],
        threads: int,
        most_samples: int,
    ):
        self._items, self._read, self._most = iter(items), read, most_samples
        self._slots: deque[_Slot[Item]] = deque()
        self._held = 0
        self._running = threads
        self._closed = False
        self._failure: BaseException | None = None
        self._taking = threading.Lock()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Iterator[tuple[Item, np.ndarray | AudioError | None]]:
        while True:
            with self._changed:
                self._changed.wait_for(self._next_is_there)
                if self._failure is not None:
                    raise self._failure
                if not self._slots:
                    return
                slot = self._slots[0]
                if slot.windows:
                    window = slot.windows.popleft()
                    self._held -= len(window)
                    found: np.ndarray | AudioError | None = window
                else:
                    self._slots.popleft()
                    found = slot.end
                self._changed.notify_all()
            yield slot.item, found

    def close(self) -> None:
        """Stop reading; what was read is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next_is_there(self) -> bool:
        if self._failure is not None:
            return True
        if self._slots:
            return bool(self._slots[0].windows) or self._slots[0].done
        return self._running == 0

    def _work(self) -> None:
        try:
            while (slot := self._take()) is not None:
                self._fill(slot)
        except BaseException as failure:
            with self._changed:
                self._failure = self._failure or failure
                self._closed = True
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _take(self) -> _Slot[Item] | None:
        with self._taking:  # also keeps the slots in the order of the items
            with self._changed:
                self._changed.wait_for(self._has_room)
                if self._closed:
                    return None
            for item in self._items:
                slot = _Slot(item)
                with self._changed:
                    self._slots.append(slot)
                return slot
            return None

    def _has_room(self) -> bool:
        return self._closed or (self._held < self._most and len(self._slots) < _MOST_ITEMS)

    def _fill(self, slot: _Slot[Item]) -> None:
        end = None
        try:
            for window in self._read(slot.item):
                with self._changed:
                    self._changed.wait_for(partial(self._may_add, slot, len(window)))
                    if self._closed:
                        return
                    slot.windows.append(window)
                    self._held += len(window)
                    self._changed.notify_all()
        except AudioError as error:
            end = error
        with self._changed:
            slot.end, slot.done = end, True
            self._changed.notify_all()

    def _may_add(self, slot: _Slot[Item], samples: int) -> bool:
        """There is room; or this one is waited for, and would wait for ever."""
        if self._closed or self._held + samples <= self._most:
            return True
        return self._slots[0] is slot and not slot.windows
