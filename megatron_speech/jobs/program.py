"""How a program ends, as a person at a terminal expects it."""

import errno
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from ..errors import MegatronSpeechError
from .starting import INTERRUPTED, say_once

FAILED = 2
"""Exit status after an error that was said on one screen."""
_TERMINATED = 143  # as shells have it for SIGTERM
_PIPE_CLOSED = 141  # and for SIGPIPE: `tool | head`
_MOST_SAID = 2000
_CONTINUES = "run the same command again to continue"
_STARTS_OVER = "the same command starts over"
_PERMISSIONS = "look at its permissions and those of the folders above it, or choose another place"
_NO_FOLDER = "a part of that path is a file where a folder is wanted"
_DEVICE = "the disk or network it lies on failed; see dmesg, then run the same command again"
_ADVICE = {
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EROFS: "it is mounted for reading only; choose another place",
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: _NO_FOLDER,
    errno.EISDIR: "a folder stands where a file is wanted",
    errno.ENOENT: "give a path that exists (a symbolic link may lead nowhere)",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "symbolic links lead in a circle",
    errno.EMFILE: "raise the limit of this shell (ulimit -n), or use fewer workers",
    errno.ENFILE: "too many files are open on this machine",
    errno.EIO: _DEVICE,
    errno.ESTALE: _DEVICE,
    errno.EREMOTEIO: _DEVICE,
    errno.ETIMEDOUT: _DEVICE,
}


def run(main: Callable[[], Any], *, starts_over: bool = False) -> None:
    """Call a program's `main`, and end as a person at a terminal expects it.

    An error meant for people, and any error of the operating system, is said on one screen: exit
    status 2. Ctrl-C is 130, SIGTERM 143 (what is under way cleans up), both with a line; a reader
    that went away, as in `| head`, is 141 without one. What is left is a bug, with its traceback.

    Args:
        main: the program.
        starts_over: it keeps nothing of a call that was stopped, which that line then says; else
            the next call continues.
    """
    terminable = "WORLD_SIZE" not in os.environ  # torchrun's ranks may wait for each other in C
    if terminable := terminable and _takes(signal.SIGTERM, signal.SIG_DFL):
        signal.signal(signal.SIGTERM, _terminate)
    try:
        with _printed_to_the_end():
            _end_well(main, _STARTS_OVER if starts_over else _CONTINUES)
    finally:
        if terminable:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_well(main: Callable[[], Any], then: str) -> None:
    try:
        main()
    except MegatronSpeechError as error:
        _fail(error)
    except Terminated:
        _stop("terminated", then, _TERMINATED)
    except KeyboardInterrupt:
        _stop("interrupted", then, INTERRUPTED)
    except io.UnsupportedOperation:
        raise  # is an OSError, and a bug
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise
        _fail(describe(error))


class Terminated(KeyboardInterrupt):
    """SIGTERM: whatever cleans up after Ctrl-C cleans up after it too."""


def describe(error: OSError) -> str:
    """Which file, what is wrong with it and what to do, as far as the error tells."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        said = f"no disk space left while writing: {error}"
    elif error.errno is None:  # of a library, in its own words
        said = str(error) or type(error).__name__
    else:
        name = error.filename
        said = "" if name is None else f"{name if isinstance(name, int) else os.fsdecode(name)}: "
        said += os.strerror(error.errno)
        if advice := _ADVICE.get(error.errno):
            said += f"; {advice}"
    return " ".join([said, *(f"({note})" for note in getattr(error, "__notes__", ()))])


@contextmanager
def _printed_to_the_end() -> Iterator[None]:
    """What was printed reaches stdout here, and not when nobody can catch an error any more."""
    try:
        try:
            yield
        finally:
            _flush()
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(_PIPE_CLOSED) from None


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        _fail(describe(error))  # a full disk under the log


def _nobody_reads() -> bool:
    """Whether the reader of what is printed has gone away: other pipes break too."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # no file
            poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _takes(number: int, handler: object) -> bool:
    """Whether a signal is handled here, and as nobody has changed it: nohup ignores some."""
    in_main = threading.current_thread() is threading.main_thread()
    return in_main and signal.getsignal(number) == handler


def _terminate(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, lambda *_: None)  # once: a second would stop the cleaning up
    raise Terminated


def _fail(error: object) -> NoReturn:
    said = str(error)
    if len(said) > _MOST_SAID:  # its beginning names what, its end what to do
        said = f"{said[: _MOST_SAID // 2]} … {said[-_MOST_SAID // 2 :]}"
    _say(f"error: {said}")
    raise SystemExit(FAILED) from None


def _stop(how: str, then: str, status: int) -> NoReturn:
    say_once(f"{how}; {then}")
    raise SystemExit(status) from None


def _say(text: str) -> None:
    with suppress(OSError):  # nobody listens
        print(text, file=sys.stderr, flush=True)
