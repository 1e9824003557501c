"""Processes that live no longer than those who started them."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


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
