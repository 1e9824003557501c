"""Stages in processes of their own: those that do not need each other share the cores."""

import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import TextIO

from examples.quickstart.machine import cores, use_cores
from megatron_speech import cli
from megatron_speech.jobs.processes import ctrl_c_waits, die_with, take_ctrl_c

AT_ONCE = 2
"""Processes at a time. Small models keep few cores busy, so that two trainings side by side end
sooner than one after the other. Torch has half of the cores in each, whether the other still runs
or not, for the order in which numbers are added up depends on how many cores there are."""
_STOPS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE_S = 0.5


class SideBySide:
    """Up to `AT_ONCE` named pieces of work; on leaving, those that still run are stopped.

    What they print carries their names. A training that is stopped saves its state first.
    """

    def __init__(self) -> None:
        self._running: dict[str, SpawnProcess] = {}

    def __enter__(self) -> "SideBySide":
        self._handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
        return self

    def __exit__(self, *exception: object) -> None:
        while self._running:
            for process in self._running.values():
                process.terminate()
            # again and again: of two signals at once, both may reach a thread other than Python's
            wait([process.sentinel for process in self._running.values()], _PATIENCE_S)
            for name in [name for name, process in self._running.items() if not process.is_alive()]:
                self._running.pop(name).join()
        signal.signal(signal.SIGTERM, self._handler)

    def __len__(self) -> int:
        return len(self._running)

    def start(self, name: str, work: Callable[[], object]) -> None:
        """Begin `work`, which must be picklable."""
        process = multiprocessing.get_context("spawn").Process(
            target=_in_process, args=(name, work, os.getpid()), name=name
        )
        with ctrl_c_waits():
            process.start()
        self._running[name] = process

    def wait(self) -> list[str]:
        """Names of those that have ended, at least one.

        Raises:
            SystemExit: one failed, and has said why.
            KeyboardInterrupt: one was interrupted.
        """
        ready = wait([process.sentinel for process in self._running.values()])
        ended = [name for name, process in self._running.items() if process.sentinel in ready]
        for name in ended:
            process = self._running.pop(name)
            process.join()
            code = process.exitcode
            if code == cli.INTERRUPTED:
                raise KeyboardInterrupt
            if code:
                how = f"was killed by signal {-code}" if code < 0 else "failed"
                print(f"{name} {how}; what it had saved is kept", file=sys.stderr)
                raise SystemExit(max(code, 1))
        return ended


def _in_process(name: str, work: Callable[[], object], parent: int) -> None:
    def begin() -> None:
        share = max(1, cores() // AT_ONCE)
        os.environ["OMP_NUM_THREADS"] = str(share)  # of processes that this one starts
        use_cores(share)
        work()

    if not die_with(parent):
        return
    sys.stdout, sys.stderr = NamedLines(name, sys.stdout), NamedLines(name, sys.stderr)
    for number in _STOPS:
        signal.signal(number, _stop_once)
    take_ctrl_c()
    cli.run(begin)


def _stop_once(number: int, frame: object) -> None:
    """Ctrl-C reaches a stage from the terminal and, as SIGTERM, from the demo: that is one stop."""
    for later in _STOPS:
        signal.signal(later, lambda number, frame: None)
    raise KeyboardInterrupt


class NamedLines(io.TextIOBase):
    """Text goes to `stream` line by line, each after a name; empty lines are left out."""

    def __init__(self, name: str, stream: TextIO):
        self._name, self._stream, self._rest = name, stream, ""

    def write(self, text: str, /) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        self._stream.write("".join(f"{self._name} │ {line}\n" for line in lines if line.strip()))
        self._stream.flush()
        return len(text)

    def flush(self) -> None:
        if self._rest:
            self.write("\n")
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()
