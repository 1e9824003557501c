"""Folders that appear whole and go whole, however the process that works on them ends."""

import glob
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..io.files import (
    is_abandoned,
    read_json_object,
    replace_folder,
    temporary_beside,
    this_process,
    write_json,
)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`; on success it is synced and takes the place of `path`.

    If the block raises, what was there stays. What killed processes left beside is removed first.

    Raises:
        ConfigError: there is a file of that name.
    """
    if path.is_file():
        raise ConfigError(f"{path} is a file; give a folder")
    remove_abandoned(path)
    staging = temporary_beside(path)
    try:
        staging.mkdir(parents=True)
        yield staging
        replace_folder(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def require_own(folder: Path, patterns: Sequence[str]) -> None:
    """Refuse to replace a folder in which somebody has put more than was written there.

    Args:
        patterns: names (`fnmatch`) of all that may be there; what file managers and hub clients
            leave (`.DS_Store`, `._*`, `.cache`) is nobody's.

    Raises:
        ConfigError: there is more.
    """
    allowed = (*patterns, ".DS_Store", "._*", ".cache")
    more = [e.name for e in folder.iterdir() if not any(fnmatch(e.name, p) for p in allowed)]
    if more:
        raise ConfigError(
            f"{folder} would be replaced, and holds {', '.join(sorted(more)[:3])}"
            f"{f' and {len(more) - 3} more' if len(more) > 3 else ''} besides what was written "
            "there; move that away, or choose another folder"
        )


def remove_folder(path: Path) -> None:
    """Remove a folder, if it is there, in one step for all who look for it by name.

    It is renamed first. A kill while files are removed one by one would leave some of them, and
    those that say what is finished may outlive what they speak of.
    """
    leaving = new_name_beside(path)
    with suppress(FileNotFoundError):
        os.rename(path, leaving)
        shutil.rmtree(leaving)
    remove_abandoned(path)


def new_name_beside(path: Path) -> Path:
    """A name that `remove_abandoned` knows, another one each time; for renames and claims."""
    return path.with_name(f".{path.name}.{this_process()}.{uuid.uuid4().hex[:8]}.part")


def remove_abandoned(path: Path) -> None:
    """Remove what killed processes left of making or removing `path`, a file or a folder."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        if not is_abandoned(leftover):
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def same_job(path: Path, settings: dict[str, Any]) -> None:
    """Let a resumable job own the folder of `path`: remember there what its bytes depend on.

    Raises:
        ConfigError: the folder holds work begun with other settings.
    """
    settings = _comparable(settings)
    if not path.exists():
        write_json(path, settings)
        return
    found = _comparable(read_json_object(path))
    differing = sorted(k for k in {*found, *settings} if found.get(k) != settings.get(k))
    if differing:
        raise ConfigError(
            f"{path.parent} was begun with other settings ({', '.join(differing)}): "
            f"{[found.get(k) for k in differing]} there, {[settings.get(k) for k in differing]} "
            "now; remove the folder or choose another one"
        )


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives them back; infinities, which it has not, as strings, and so apart."""
    return json.loads(json.dumps(settings), parse_constant=str)
