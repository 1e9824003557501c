"""Ctrl-C while a program imports what it needs. Itself it needs next to nothing."""

import os
import signal
import sys

INTERRUPTED = 130
"""Exit status of a program that was stopped and can be continued, as shells have it for Ctrl-C."""


class starting:
    """Around a program's imports, which take seconds: Ctrl-C ends it with a line.

    At once, from the signal's handler: an exception would pass through the imports of libraries,
    some of which catch it and report something else. Nothing has been written yet.

    Args:
        module: `__name__` there; where it is no program but imported, nothing is done.
    """

    def __init__(self, module: str):
        self._changed = module in ("__main__", "__mp_main__") and (
            signal.getsignal(signal.SIGINT) is signal.default_int_handler  # nohup ignores it
        )
        self._speaks = module == "__main__"  # and not a worker of it

    def __enter__(self) -> None:
        if self._changed:
            signal.signal(signal.SIGINT, self._leave)

    def __exit__(self, *error: object) -> None:
        if self._changed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _leave(self, number: int, frame: object) -> None:
        if self._speaks:
            say_once("interrupted before it began")
        os._exit(INTERRUPTED)


def say_once(text: str) -> None:
    """Tell the person at the terminal; of torchrun's ranks the first one does."""
    if os.environ.get("RANK", "0") == "0":
        try:  # noqa: SIM105 - contextlib takes its time to import
            print(text, file=sys.stderr, flush=True)
        except OSError:
            pass  # nobody listens
