"""Files that exist whole or not at all, and fingerprints of what they hold."""

import ctypes
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed to `path`.

    If the block raises (a full disk included) nothing appears under `path` and the temporary
    file is removed. It ends in `.part`: one that a killed process left behind is never found by a
    reader that looks for `*.parquet`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_directory(path.parent)


def temporary_beside(path: Path) -> Path:
    """Where this process writes what will be `path`: many nodes may share a folder."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.part")


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Bring every file below `folder`, and the names of all of them, to the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(place, name), "rb") as stream:
                os.fsync(stream.fileno())
        _fsync_directory(Path(place))


def replace_folder(new: Path, target: Path) -> None:
    """Rename the finished folder `new` to `target`, on the disk; a folder found there is removed.

    A reader finds the old folder or the new one, whole, at every instant. Only where the file
    system cannot exchange two names (NFS) there are two renames, and who is killed between them
    leaves the old folder as `.NAME.PID.old`.
    """
    sync_folder(new)
    if not target.exists():
        os.rename(new, target)
    elif not _exchange(new, target):
        old = target.with_name(f".{target.name}.{os.getpid()}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(target, old)
        try:
            os.rename(new, target)
        except OSError:
            os.rename(old, target)
            raise
        new = old
    _fsync_directory(target.parent)
    shutil.rmtree(new, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders swap names in one step; False where that cannot be done."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # Python has no name for it
    if rename is None:
        return False
    return rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` atomically as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` atomically as indented JSON with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def fingerprint_of(*parts: bytes | str) -> str:
    """16 hex digits that identify the bytes of `parts`, in order, with their boundaries."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]


def fingerprint_of_files(*paths: str | os.PathLike[str]) -> str:
    """16 hex digits that identify the contents of several files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
