"""Recordings that were set aside, and whose files came or changed since. Imports no torch."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..io.rejected import Rejected
from .recording import Recording

DUE_AGAIN = "are made anew: recordings that were set aside are there now, or have changed"


def turned_up(recordings: Sequence[Recording], rejected: Iterable[Rejected], judged: Path) -> bool:
    """Whether one of `recordings` that are in `rejected` deserves another try.

    It does if it was missing and is there, or if its file was written, replaced or given other
    permissions since it was judged.

    Args:
        judged: a file that `mark_judged` has marked.
    """
    files = {recording.id: recording.path for recording in recordings}
    judged_ns = judged.stat().st_mtime_ns
    for item in rejected:
        try:
            state = os.stat(files[item.id])
        except (KeyError, OSError, ValueError):  # ValueError: no path can be so called
            continue
        if item.reason == "missing" or state.st_ctime_ns > judged_ns:
            return True
    return False


def mark_judged(judged: Path, since_s: float) -> None:
    """Note at a file, which lists what was set aside, when the first of it was looked at.

    Not when the list was written: a file that was still being copied may be whole by then.

    Args:
        since_s: in seconds, as `time.time` has it.
    """
    os.utime(judged, (since_s, since_s))
