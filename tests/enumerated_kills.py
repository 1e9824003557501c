"""Tools killed at every file operation, one after the other, and started again.

An audit hook of Python sees what a tool is about to do: open a file for writing, rename, replace,
remove, make or remove a folder, link, truncate. At the k-th the process and its children are
killed: before it; for a file that is opened, also with the file there and empty; and with the file
opened last cut to half, as a kill while it was written leaves it. Files that libraries write from
C++ (Parquet, tensors) appear under temporary names, and their renaming is seen.

The same command then has to end with the bytes of an undisturbed run, and nothing that was there
before it may look finished and be something else. Beside another process that has its output the
tool must stop and change nothing. It starts in a fork, so that its imports count once.

    python -m tests.enumerated_kills JOB FOLDER [again] [quick]    # prints the counts as JSON
"""

import importlib
import json
import mmap
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megatron_speech import cli
from megatron_speech.jobs.claims import Claims

Run = Callable[[Path], object]
"""Runs a tool that writes into the folder it is given."""
_CHANGES = (
    "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True, kw_only=True)
class Job:
    """A tool and what to expect of it."""

    run: Run
    finished: tuple[str, ...]
    """Files of the output folder that say it is finished, if any: all there, all is done."""
    same: Callable[[str, Path], bytes | None] = lambda name, path: path.read_bytes()
    """What must be equal of a file in all runs; None for one that does not count."""
    alone: bool = True
    """Whether it refuses to work beside another process."""
    begin: Run = lambda work: None
    """Makes what lies in the folder before the tool starts; what it makes may be replaced."""


@dataclass
class Counts:
    """What a campaign met."""

    kills: int = 0
    by_operation: dict[str, int] = field(default_factory=dict)
    looked_finished: int = 0
    """Kills after which all was done."""
    faults: list[str] = field(default_factory=list)


class _Killer:
    """The audit hook. `place` is where the process dies; none lets it live and counts.

    If it is not `thorough`, what is in a file matters only under a name that somebody reads.
    """

    def __init__(self, folder: Path, place: int | None, tally: mmap.mmap, thorough: bool):
        self._folder, self._place, self._tally = f"{folder}/", place, tally
        self._thorough = thorough
        self._last: tuple[str, bool] | None = None
        self._busy = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._busy:
            return
        if event == "open":
            path, flags = arguments[0], arguments[2]
            if not isinstance(path, str | bytes) or not flags & _WRITING:
                return
            self._meet("open", _absolute(path, -1), flags)
        elif event == "os.truncate":
            self._meet(event, _absolute(arguments[0], -1), 0)
        elif event in _CHANGES:
            folders = [argument for argument in arguments[1:] if isinstance(argument, int)]
            self._meet(event, _absolute(arguments[0], folders[-1] if folders else -1), 0)
        elif event == "ctypes.dlsym" and arguments[1] == "renameat2":  # is called at once
            self._meet("exchange", self._folder, 0)

    def _meet(self, event: str, path: str, flags: int) -> None:
        if not f"{path}/".startswith(self._folder) or _changes_nothing(event, path):
            return
        self._busy = True
        try:
            if self._last and self._counts(self._last[0]) and self._is_due("written in part"):
                _cut(*self._last)
                _die()
            self._last = None
            if self._is_due(event):
                _die()
            if event == "open":
                new = flags & (os.O_CREAT | os.O_TRUNC) and self._counts(path)
                if new and self._is_due("opened and empty"):
                    os.close(os.open(path, flags, 0o644))
                    _die()
                self._last = path, bool(flags & os.O_APPEND)
        finally:
            self._busy = False

    def _counts(self, path: str) -> bool:
        return self._thorough or not path.endswith(".part")

    def _is_due(self, name: str) -> bool:
        number = int.from_bytes(self._tally[:8], "little")
        self._tally[:8] = (number + 1).to_bytes(8, "little")
        if number == self._place:
            self._tally[8:40] = name.encode().ljust(32)
        return number == self._place


def _absolute(path: str | bytes | int, folder: int) -> str:
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    known = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd()
    return os.path.join(known, os.fsdecode(path))


def _changes_nothing(event: str, path: str) -> bool:
    """A folder that is there already, or a file that is not."""
    there = os.path.lexists(path)
    return (event == "os.mkdir" and there) or (event in ("os.remove", "os.rmdir") and not there)


def _cut(path: str, appended: bool) -> None:
    """A file as a kill in the middle of writing leaves it; of a log only the last line is open."""
    if os.path.isfile(path):
        size = os.path.getsize(path)
        os.truncate(path, max(size - 5, 0) if appended else size // 2)


def _die() -> None:
    os.killpg(0, signal.SIGKILL)


def in_fork(work: Callable[[], object], log: Path) -> int:
    """Exit status of `work` done in a process and group of its own; its signal, negative."""
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(output, 1)
            os.dup2(output, 2)
            cli.run(work)
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(work: Path, job: Job) -> dict[str, bytes]:
    """What counts of the files in a folder; not those half-written, which nobody reads."""
    found = {}
    for path in sorted(work.rglob("*")):
        name = str(path.relative_to(work))
        if path.is_file() and not any(p.endswith(".part") for p in name.split("/")):
            data = job.same(name, path)
            if data is not None:
                found[name] = data
    return found


def campaign(job: Job, folder: Path, again: bool = False, thorough: bool = True) -> Counts:
    """Kill the job at every place.

    With `again` it begins with the finished output, as when a finished command is given again.
    """
    work, kept, log = folder / "work", folder / "kept", folder / "log.txt"
    modules = folder / "modules.txt"
    counts, tally = Counts(), mmap.mmap(-1, 64)

    def start(place: int | None = None, counted: bool = False) -> int:
        def run() -> None:
            if counted:
                sys.addaudithook(_Killer(work, place, tally, thorough))
            job.run(work)
            modules.write_text("\n".join(sys.modules))

        tally[:64] = bytes(64)
        return in_fork(run, log)

    def reset() -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(kept, work)

    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    assert in_fork(lambda: job.begin(work), log) == 0, log.read_text()
    if not again:
        shutil.copytree(work, kept, dirs_exist_ok=True)
    assert start(counted=not again) == 0, log.read_text()
    places = int.from_bytes(tally[:8], "little")
    for name in modules.read_text().splitlines():  # once, and not in each fork
        with suppress(Exception):
            importlib.import_module(name)
    expected = contents(work, job)
    assert all((work / name).exists() for name in job.finished), sorted(expected)
    if again:
        shutil.copytree(work, kept, dirs_exist_ok=True)
        assert start(counted=True) == 0, log.read_text()
        places = int.from_bytes(tally[:8], "little")
        assert contents(work, job) == expected
    if job.alone:
        reset()
        counts.faults += _beside_another(job, work, log)
    for place in range(places):
        reset()
        log.write_text("")
        if start(place, counted=True) != -signal.SIGKILL:
            counts.faults.append(f"{place}: not killed: {log.read_text()[-300:]}")
            continue
        operation = tally[8:40].decode().strip()
        counts.kills += 1
        counts.by_operation[operation] = counts.by_operation.get(operation, 0) + 1
        if job.finished and all((work / name).exists() for name in job.finished):
            counts.looked_finished += 1
            found = {n: data for n, data in contents(work, job).items() if n in expected}
            if differing := _differing(found, expected):
                counts.faults.append(f"{place} ({operation}): looks finished, but {differing}")
        if status := start():
            text = log.read_text()[-300:]
            counts.faults.append(f"{place} ({operation}): then exit status {status}: {text}")
        elif differing := _differing(contents(work, job), expected):
            counts.faults.append(f"{place} ({operation}): then {differing}")
    shutil.rmtree(kept)
    return counts


def _beside_another(job: Job, work: Path, log: Path) -> list[str]:
    """Faults where another process holds the output: the job must refuse and change nothing."""

    def run() -> None:
        Claims.take = lambda self, name: False
        job.run(work)

    before = contents(work, job)
    status, found = in_fork(run, log), contents(work, job)
    if status == 2 and found == before:
        return []
    return [f"beside another process: exit status {status}, {_differing(found, before)}"]


def _differing(found: dict[str, bytes], expected: dict[str, bytes]) -> str:
    """Which files are missing, changed or too many."""
    names = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
    return ", ".join(f"{n} {'differs' if n in found else 'is missing'}" for n in names)


def main(name: str, folder: Path, again: bool, thorough: bool) -> None:
    from tests.kill_jobs import make_job

    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.fsync = lambda descriptor: None  # a kill does not lose what was written
    counts = campaign(make_job(name, folder), folder, again, thorough)
    print(json.dumps(asdict(counts)))


if __name__ == "__main__":
    options = sys.argv[3:]
    main(sys.argv[1], Path(sys.argv[2]), "again" in options, "quick" not in options)
