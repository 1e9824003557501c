"""Processes that live no longer than those who started them, and end with them in silence."""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from ..errors import DataError
from ..io.stops import stops_wait
from .starting import INTERRUPTED

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_PR_SET_PDEATHSIG = 1
_STOPS = (signal.SIGINT, signal.SIGTERM)
_BETWEEN_SIGNALS_S = 0.1


def die_with(parent: int) -> bool:
    """Have the kernel kill this process, without a chance to clean up, when its parent is gone.

    On Linux; elsewhere a process outlives its parent.

    Args:
        parent: process id of the one that started this one.

    Returns:
        Whether that one still lives; what was started for it should not begin otherwise.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


@contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Hold stops back while processes are started: one left half-started is known to nobody.

    Ctrl-C also in those processes, until they call `take_ctrl_c`: a new interpreter takes seconds
    to start, and would print a traceback of its own.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with stops_wait():  # for other threads take what this one blocks
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take_ctrl_c() -> None:
    """End the waiting of a process that was started under `ctrl_c_waits`."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def stopping_together(pool: ProcessPoolExecutor, description: str) -> Iterator[None]:
    """Around the use of a pool whose workers began with `begin_worker` and do `task`s.

    When it raises, what waits is given up; on Ctrl-C (and SIGTERM) so is what runs.

    Raises:
        DataError: a worker was killed from outside (most often for memory).
    """
    others = set(multiprocessing.active_children())
    with pool:
        try:
            yield
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                # again and again: between fork and exec a new process forgets a signal
                while workers := set(multiprocessing.active_children()) - others:
                    for worker in workers:
                        worker.terminate()
                    time.sleep(_BETWEEN_SIGNALS_S)
            # waited for: Python would end the pool's thread at exit, and may stumble over its pipes
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise DataError(
                    f"a worker of '{description}' was killed, perhaps for lack of memory; "
                    "finished tasks are kept: run again, with fewer workers if need be"
                ) from None
            raise


def begin_worker() -> None:
    """In a worker: a stop ends it without a word, since the process that started it speaks."""
    for number in _STOPS:
        signal.signal(number, _leave)
    take_ctrl_c()


def task(function: Callable[[Argument], Result], argument: Argument) -> Result:
    """In a worker: `function(argument)`; a stop lets it clean up, and ends the worker.

    Also one that comes as the handlers change: the pool would take it for an error of this task,
    and give the worker the next.
    """
    try:
        for number in _STOPS:
            signal.signal(number, _interrupt_once)
        try:
            return function(argument)
        finally:
            for number in _STOPS:
                signal.signal(number, _leave)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


def _leave(number: int, frame: Any) -> NoReturn:
    os._exit(INTERRUPTED)


def _interrupt_once(number: int, frame: Any) -> NoReturn:
    """Ctrl-C comes from the terminal and, as SIGTERM, from whom it reached: that is one stop."""
    for later in _STOPS:  # no SIG_IGN: Python complains of one that is on its way
        signal.signal(later, lambda number, frame: None)
    raise KeyboardInterrupt
