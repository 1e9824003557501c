"""Ctrl-C and SIGTERM that have to wait for what is under way."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stops_wait() -> Iterator[None]:
    """Hold stops back; they are delivered at the end. In other threads than the main one, where no
    handlers run, nothing is done.

    So around a call of a C library that calls back into Python: what a handler raises in there goes
    no further (ctypes and cffi print and drop it), and what the library should have got is missing.
    The stop would be lost, and a piece of sound with it. Held back by handlers, since a signal that
    one thread blocks is taken by another.
    """
    held: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in _STOPS if is_main}
    untouched = (signal.SIG_IGN, None)  # None: set by others than Python
    handlers = {number: found for number, found in handlers.items() if found not in untouched}
    try:
        for number in handlers:
            signal.signal(number, lambda number, frame: held.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
