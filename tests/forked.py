"""Tools in processes of their own, to be killed."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any


def start(main: Callable[[list[str]], Any], command: list[str]) -> BaseProcess:
    """Run a tool's `main` in a new process, without waiting for its imports each time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([main.__module__])
    process = context.Process(target=main, args=(command,))
    process.start()
    return process
