"""Signs of life for the launcher that watches this process, if one does.

NVIDIA's Resiliency Extension starts a monitor beside every process and names its socket in the
environment; a process that is silent for too long is ended, and the job started again from its
last checkpoint (cluster/launch.py). Started in any other way, nothing here does anything.
"""

import os
import sys
from contextlib import suppress
from typing import Any

_SOCKET = "FT_RANK_MONITOR_IPC_SOCKET"  # the extension's name
_monitors: dict[str, Any] = {}  # by socket: the open connection


def connect() -> None:
    """Make this process known; from here on it must beat, the first time after its start-up."""
    socket = os.environ.get(_SOCKET)
    if socket is None or socket in _monitors:
        return
    from nvidia_resiliency_ext.fault_tolerance import RankMonitorClient

    monitor = RankMonitorClient()
    monitor.init_workload_monitoring()
    _monitors[socket] = monitor


def beat() -> None:
    """Say that this process goes on: after a step, an evaluation, a checkpoint.

    A monitor that has gone away does not end the training; it goes on unwatched, and says so.
    """
    socket = os.environ.get(_SOCKET, "")
    if socket not in _monitors:
        return
    from nvidia_resiliency_ext.fault_tolerance import RankMonitorClientError

    try:
        _monitors[socket].send_heartbeat()
    except RankMonitorClientError as error:
        del _monitors[socket]
        said = f"the monitor of this process is gone ({error}); a hang will not be noticed"
        print(said, file=sys.stderr, flush=True)


def disconnect() -> None:
    """End the watch: what follows the last step may take its time."""
    monitor = _monitors.pop(os.environ.get(_SOCKET, ""), None)
    if monitor is not None:
        with suppress(OSError):  # the monitor went first
            monitor.shutdown_workload_monitoring()
