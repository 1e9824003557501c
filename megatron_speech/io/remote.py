"""Files that are not on a disk: s3://, hf://, gs:// and whatever else fsspec opens."""

from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import ConfigError, DataError

_VERSION_KEYS = ("ETag", "etag", "blob_id", "oid", "checksum", "LastModified", "mtime", "created")


def is_remote(path: object) -> bool:
    """Whether a path given by the user is a URL of fsspec's."""
    return isinstance(path, str) and "://" in path


@dataclass(frozen=True)
class RemoteFile:
    """A file of a remote filesystem; `version` changes when its contents do."""

    url: str
    size: int
    version: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def open(self) -> BinaryIO:
        """Open for reading; the stream seeks.

        Raises:
            DataError: it is gone or may not be read.
        """
        filesystem, path = _filesystem(self.url)
        try:
            return filesystem.open(path, "rb")
        except OSError as error:
            raise DataError(f"{self.url} cannot be opened: {error}") from None

    def __str__(self) -> str:
        return self.url


def find_remote(url: str) -> list[RemoteFile]:
    """The file of a URL, the files in its folder, or those that match its pattern, sorted.

    Raises:
        DataError: nothing is there, or it may not be read.
        ConfigError: the package for that kind of URL is missing.
    """
    filesystem, path = _filesystem(url)
    try:
        if any(character in path for character in "*?["):
            found = filesystem.glob(path, detail=True)
        elif filesystem.isdir(path):
            found = {entry["name"]: entry for entry in filesystem.ls(path, detail=True)}
        else:
            found = {path: filesystem.info(path)}
    except OSError as error:
        raise DataError(f"{url} cannot be read: {error}") from None
    files = []
    for name in sorted(found):
        entry = found[name]
        if entry["type"] == "file":
            known = [f"{key}={entry[key]}" for key in _VERSION_KEYS if entry.get(key) is not None]
            location = filesystem.unstrip_protocol(name)
            files.append(RemoteFile(location, int(entry["size"]), " ".join(known)))
    if not files:
        raise DataError(f"{url} does not exist")
    return files


def _filesystem(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{url} cannot be opened: {error}; s3:// needs s3fs: "
            "pip install -c constraints.txt -e '.[cluster]'"
        ) from None
