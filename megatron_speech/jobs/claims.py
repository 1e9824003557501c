"""Who works on what: claims that processes of any machine see, and that the dead lose.

A claim is a file. It names its process, which touches it every half minute while it lives. It is a
file and not a lock of the system (flock): on many clusters' NFS and Lustre mounts such locks are
missing, or known to one node only, and nothing says so, while a file that must not exist yet is
made by one process alone everywhere. A claim is given back at the end, and on SIGTERM. One that a
killed process left behind is recognised:

- on the same machine by its process, which is gone or began at another time;
- in a Slurm job that was requeued, by the number of the restart;
- else by its silence, after `STALE_S`. Ages are told by the clock of the file system.
"""

import json
import os
import platform
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InUseError
from ..io.files import has_ended, this_process
from .folders import new_name_beside, remove_abandoned

STALE_S = 300.0
"""A claim that was not touched for so long belongs to a process that is gone."""
_COMMAND_CHARACTERS = 100
_MOST_TRIES = 100  # of making a folder that others remove at the same time


class Claims:
    """Claims of one process in one folder. Use as a context manager: leaving gives them back."""

    def __init__(self, folder: Path, stale_s: float = STALE_S):
        self._folder, self._stale_s = folder, stale_s
        self._held: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, daemon=True)

    def __enter__(self) -> "Claims":
        with suppress(FileNotFoundError):  # removed meanwhile: made again for each claim
            self._folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._stop.set()
        self._thread.join()
        for name in list(self._held):
            self.release(name)

    def take(self, name: str) -> bool:
        """Claim `name` unless a living process has it."""
        path = self._folder / name
        token = uuid.uuid4().hex
        if path.exists() and not self._remove_if_gone(path):
            return False
        with self._lock:
            if self._stop.is_set():
                return False
            if not _create_in_folder(path, json.dumps(_this_owner(token))):
                return False
            self._held[name] = token
        return True

    def release(self, name: str) -> None:
        """Give a claim back, unless another process has taken it over."""
        with self._lock:
            token = self._held.pop(name)
        path = self._folder / name
        if read_claim(path).get("token") == token:
            path.unlink(missing_ok=True)

    def _remove_if_gone(self, path: Path) -> bool:
        """Remove a claim whose process is dead or silent; True if none is left."""
        owner = read_claim(path)
        try:
            touched = path.stat().st_mtime
        except FileNotFoundError:
            return True
        silent = time.time() - touched >= self._stale_s and (
            _now_of(path.parent) - touched >= self._stale_s
        )
        if not (silent or _is_gone(owner)):
            return False
        # Of two that see it only one renames it; who renamed a newer one puts it back.
        taken = new_name_beside(path)
        with suppress(FileNotFoundError):
            os.rename(path, taken)
            if read_claim(taken) != owner:
                os.rename(taken, path)
                return False
            taken.unlink(missing_ok=True)
        return True

    def _keep_fresh(self) -> None:
        while not self._stop.wait(self._stale_s / 10):
            with self._lock:
                for name in self._held:
                    with suppress(OSError):  # taken over, or a server that does not answer now
                        os.utime(self._folder / name)


@contextmanager
def exclusive(output: Path, *, inside: bool = False) -> Iterator[None]:
    """Let no other process work on `output`, a file, a dataset's prefix or a folder.

    The claim is `.NAME.claim` beside it, or `.claim` in the folder itself (`inside`): a folder
    that is replaced as a whole needs the first, one whose parent others own the second.

    Raises:
        InUseError: another process does; says which one, where and since when.
    """
    path = output / ".claim" if inside else output.with_name(f".{output.name}.claim")
    missing = [folder for folder in path.parents if not folder.exists()]
    remove_abandoned(path)
    try:
        with Claims(path.parent) as claims:
            if not claims.take(path.name):
                raise InUseError(_in_use(output, path))
            with _given_back_on_sigterm(path):
                yield
    finally:
        with suppress(OSError):  # work was put there, as it should
            for folder in missing:
                folder.rmdir()


@contextmanager
def _given_back_on_sigterm(path: Path) -> Iterator[None]:
    """Remove the claim when a scheduler ends this process, then die of the signal as without it.

    The job may be submitted again to another machine, which cannot see that this process is gone.
    Who has a handler of its own, as trainings have, ends in order.
    """
    before = signal.getsignal(signal.SIGTERM)
    ours = before is signal.SIG_DFL or isinstance(before, _GiveBack)
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    give_back = _GiveBack(path, before)
    signal.signal(signal.SIGTERM, give_back)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is give_back:
            signal.signal(signal.SIGTERM, before)


@dataclass
class _GiveBack:
    """A signal handler that removes a claim and hands the signal on to the handler `before`."""

    path: Path
    before: Any
    owner: int = field(default_factory=os.getpid)

    def __call__(self, number: int, frame: object) -> None:
        if os.getpid() == self.owner:  # a forked child inherits the handler
            self.path.unlink(missing_ok=True)
        signal.signal(number, self.before)
        os.kill(os.getpid(), number)


def read_claim(path: Path) -> dict[str, Any]:
    """What a claim says of its process; nothing if it is gone, unreadable or no claim."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _create_in_folder(path: Path, text: str) -> bool:
    """`_create` in a folder that others, who gave back their own claims, may be removing."""
    for _ in range(_MOST_TRIES):
        with suppress(FileNotFoundError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return _create(path, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _create(path, text)


def _create(path: Path, text: str) -> bool:
    """Make a file that must not be there yet; False if it is. Where links are, it appears whole."""
    whole = new_name_beside(path)
    try:
        whole.write_text(text, encoding="utf-8")
        try:
            os.link(whole, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: a kill may cut off what is written
            try:
                with open(path, "x", encoding="utf-8") as stream:
                    stream.write(text)
            except FileExistsError:
                return False
        return True
    finally:
        whole.unlink(missing_ok=True)


def _this_owner(token: str) -> dict[str, Any]:
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": " ".join(sys.argv)[:_COMMAND_CHARACTERS],
        "process": this_process(),
        "token": token,
        **(_slurm_run() or {}),
    }


def _slurm_run() -> dict[str, Any] | None:
    """Number of this Slurm job, and how often it was requeued; None outside of any."""
    job = os.environ.get("SLURM_JOB_ID")
    restarts = os.environ.get("SLURM_RESTART_COUNT", "")
    known = int(restarts) if restarts.isdigit() else 0
    return {"slurm_job": job, "slurm_restarts": known} if job else None


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether the owner has ended for certain."""
    ours = _slurm_run()
    if ours is not None and owner.get("slurm_job") == ours["slurm_job"]:
        restarts = owner.get("slurm_restarts")
        if isinstance(restarts, int) and restarts < ours["slurm_restarts"]:
            return True
    return has_ended(str(owner.get("process")))


def _now_of(folder: Path) -> float:
    """The time by the clock that stamps files of `folder`: a server's, perhaps."""
    probe = new_name_beside(folder / "now")
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _in_use(output: Path, path: Path) -> str:
    owner = read_claim(path)
    who = "another process"
    if owner:
        who = f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')}"
        who += f" ({owner.get('command')})"
    return (
        f"{output} is in use by {who}; wait until that has ended, or choose another output. If it "
        f"is gone for certain, remove {path}; without a sign of life the claim ends by itself "
        f"after {STALE_S / 60:g} minutes"
    )
