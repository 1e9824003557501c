"""Files that exist whole or not at all, and fingerprints of what they hold."""

import ctypes
import hashlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import DataError

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
_ABANDONED_S = 24 * 3600.0


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed to `path`.

    If the block raises (a full disk included) nothing appears under `path` and the temporary
    file is removed. It ends in `.part`: one that a killed process left behind is never found by a
    reader that looks for `*.parquet`. Whatever wrote it, others may read it as the umask says.

    Raises:
        OSError: it cannot be written; names `path` and not the temporary file.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        _make_readable(temporary)
        os.replace(temporary, path)
        _fsync_directory(path.parent)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        elif error.filename is None:
            error.add_note(f"while {path} was written")
        raise
    finally:
        with suppress(OSError):  # a folder that is none has been said
            temporary.unlink(missing_ok=True)


def _make_readable(path: Path) -> None:
    """Give a file the permissions of a new one; safetensors, for one, makes it its owner's."""
    wanted = 0o666 & ~_umask()
    found = path.stat().st_mode & 0o777
    if found | wanted != found:
        path.chmod(found | wanted)


def _umask() -> int:
    """Asked of the kernel where it tells: to set it, and back, would be seen by other threads."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
            return int(next(line for line in stream if line.startswith("Umask:")).split()[1], 8)
    except (OSError, StopIteration):
        umask = os.umask(0o077)
        os.umask(umask)
        return umask


def temporary_beside(path: Path) -> Path:
    """Where this process writes what will be `path`: many nodes may share a folder."""
    return path.with_name(f".{path.name}.{this_process()}.{_random_part(os.getpid())}.part")


def is_abandoned(temporary: Path) -> bool:
    """Whether nobody will finish this temporary file: its process is gone, or a day has passed."""
    try:
        silent_s = time.time() - temporary.lstat().st_mtime
    except FileNotFoundError:
        return False
    process = temporary.name.rsplit(".", 3)[1]
    return has_ended(process) or silent_s > _ABANDONED_S


def this_process() -> str:
    """Name of this process among those of all machines and containers, without dots."""
    return f"{_place()}-{os.getpid()}-{_began(str(os.getpid()))}"


def has_ended(process: str) -> bool:
    """Whether what `this_process` named is over; False for those of other places and no names."""
    place, _, number = process.partition("-")
    pid, _, began = number.partition("-")
    return place == _place() and began.isdigit() and _began(pid) != began


def _place() -> str:
    """Within what process numbers have one meaning: containers may share their host's name."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"
    return fingerprint_of(
        platform.node(),
        boot.read_text() if boot.exists() else "",
        os.readlink(namespace) if os.path.lexists(namespace) else "",
    )


def _began(pid: str) -> str:
    """When a process began, in clock ticks since boot; "" if there is none. Numbers return.

    One that has ended and waits for its parent to ask (a zombie) is none.
    """
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if facts[0] in "ZX" else facts[19]
    except (OSError, IndexError):
        return ""


@cache
def _random_part(pid: int) -> str:
    """One for each process, forked ones too: cloned machines may agree in all that names them."""
    return uuid.uuid4().hex[:8]


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


def json_text(value: Any, **style: Any) -> str:
    """`value` as JSON that every reader takes: of floats, nan and infinities are null.

    Args:
        style: as `json.dumps` takes it.
    """
    style = {"ensure_ascii": False, **style}
    try:
        return json.dumps(value, allow_nan=False, **style)
    except ValueError:
        plain = json.loads(json.dumps(value, **style), parse_constant=lambda _: None)
        return json.dumps(plain, allow_nan=False, **{**style, "default": None})


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` atomically as indented JSON (`json_text`) with a final newline."""
    write_text(path, json_text(value, indent=2) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file. What wrote NaN and Infinity, as Python may, is read too.

    Raises:
        DataError: it is no JSON: cut short, damaged, or of another kind.
        OSError: it cannot be read; names it.
    """
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and all of json's
        raise _damaged(path, f"no JSON ({error})") from None


def read_json_object(path: str | os.PathLike[str], **expected: Any) -> dict[str, Any]:
    """Read a JSON file of settings or facts by name.

    Args:
        expected: type of each value that must be there, as `isinstance` takes it.

    Raises:
        DataError: as `read_json`; or it holds no object, lacks one of `expected`, or has another
            type there.
    """
    return _checked(path, read_json(path), expected)


def read_yaml_object(path: str | os.PathLike[str], **expected: Any) -> dict[str, Any]:
    """Read a YAML file of settings by name; raises as `read_json_object`."""
    import yaml

    try:
        return _checked(path, yaml.safe_load(read_bytes(path).decode("utf-8")), expected)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, f"no YAML ({' '.join(str(error).split())})") from None


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes; an OSError names it, also where the kernel does not (a failing disk)."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


def _checked(path: str | os.PathLike[str], content: Any, expected: dict[str, Any]) -> Any:
    if not isinstance(content, dict):
        raise _damaged(path, f"{type(content).__name__} instead of values by name")
    for name, kind in expected.items():
        if name not in content:
            raise _damaged(path, f"it lacks {name!r}")
        # JSON's true is no number, though Python's is
        is_bool = isinstance(content[name], bool) and kind is not bool
        if is_bool or not isinstance(content[name], kind):
            raise _damaged(path, f"{name!r} is {str(content[name])[:80]!r}")
    return content


def _damaged(path: str | os.PathLike[str], what: str) -> DataError:
    return DataError(f"{os.fspath(path)} is damaged: {what}; restore it, or make it again")


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


def find_in(folder: Path, pattern: str = "*") -> list[Path]:
    """What a folder holds, sorted, without hidden entries: macOS leaves `._NAME` beside files."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
