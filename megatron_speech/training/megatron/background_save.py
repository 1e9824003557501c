"""A checkpoint that a forked process writes while training goes on.

Core plans and finishes the save (its `AsyncRequest` and `AsyncCallsQueue`); what is added here
makes the writer die with its trainer, survive the trainer's signals, and report without a manager
process.
"""

import os
import pickle
import queue
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ...jobs.processes import die_with
from ..checkpoint import unwritable


class BackgroundSave:
    """One save under way. GPU tensors are copied to host memory before the fork; on CPU the
    forked process sees the memory as it was at that moment.
    """

    def __init__(self, request: Any, directory: Path):
        from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue

        self._directory = directory
        if request.async_fn is not None:
            write = partial(_write, os.getpid(), request.async_fn)
            request = request._replace(async_fn=write)
        self._calls = AsyncCallsQueue()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
            self._calls.schedule_async_request(request)

    def done(self, wait: bool) -> bool:
        """Whether every rank's files are written and their index too; collective.

        Raises:
            CheckpointError: a rank could not write.
        """
        with failures_in_words(self._directory):
            self._calls.maybe_finalize_async_calls(blocking=wait)
        return not self._calls.get_num_unfinalized_calls()


@contextmanager
def failures_in_words(directory: Path) -> Iterator[None]:
    """Turn what core raises when it cannot write into a `CheckpointError`."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except (CheckpointException, RuntimeError) as error:
        raise unwritable(directory, error) from None


@contextmanager
def results_in(place: "queue.Queue | ResultFile") -> Iterator[None]:
    """Let core's writer hand its results back through a queue, or a file where it is forked.

    Core's own way is a manager process that imports the main module anew: seconds, and an endless
    spawn where that module has no main guard. A pipe would not do: core joins the writer before it
    reads, and a pipe holds 64 KiB.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    previous = filesystem_async._results_queue
    filesystem_async._results_queue = place
    try:
        yield
    finally:
        filesystem_async._results_queue = previous


class ResultFile:
    """The two methods of a queue that core calls, over an unnamed file that a fork inherits."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed when collected)

    def put(self, value: Any) -> None:
        pickle.dump(value, self._file)
        self._file.flush()

    def get_nowait(self) -> Any:
        self._file.seek(0)
        try:
            return pickle.load(self._file)
        except EOFError:
            raise queue.Empty from None


def _write(parent: int, write: Any, *arguments: Any, **options: Any) -> None:
    """In the forked process: write, whatever signals come, unless the trainer is gone.

    A writer that outlived a killed trainer would go on writing into the folder of the next one.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if die_with(parent):
        write(*arguments, **options)
