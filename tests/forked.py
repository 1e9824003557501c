"""Tools in processes of their own, to be killed."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any


def start(
    main: Callable[[list[str]], Any],
    command: list[str],
    output: Path | None = None,
    preload: tuple[str, ...] = (),
) -> BaseProcess:
    """Run a tool's `main` in a new process, without waiting for its imports each time.

    What it prints goes to `output`, or to where the first such process printed. `preload` names
    modules that `main` imports late.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([main.__module__, *preload])
    process = context.Process(target=_run, args=(main, command, output))
    process.start()
    return process


def _run(main: Callable[[list[str]], Any], command: list[str], output: Path | None) -> None:
    if output is not None:
        with output.open("w") as file:
            os.dup2(file.fileno(), 1)
    main(command)
