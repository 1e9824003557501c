"""JSON objects that carry a checksum of their own contents: an edited or damaged one is noticed."""

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from .files import json_text, read_json_object, write_json

_CHECKSUM = "checksum"


@dataclass(frozen=True)
class CheckedJson:
    """What a file holds, without its checksum."""

    content: dict[str, Any]
    has_checksum: bool
    """False for files written before they carried one: nothing vouches for those."""


def write_checked_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write `content` atomically with the checksum of all of it as its last key."""
    content = json.loads(json_text(content))  # what a reader will get
    write_json(path, {**content, _CHECKSUM: _checksum_of(content)})


def read_checked_json(path: str | os.PathLike[str]) -> CheckedJson:
    """Read a JSON object, and compare it with its checksum where it has one.

    Raises:
        DataError: it is no JSON object, or not the one that was written.
        OSError: it cannot be read.
    """
    content = read_json_object(path)
    expected = content.pop(_CHECKSUM, None)
    if expected is not None and expected != _checksum_of(content):
        raise DataError(
            f"{path} was changed after it was written: its checksum differs; restore it, or make "
            "it again"
        )
    return CheckedJson(content, expected is not None)


def _checksum_of(content: dict[str, Any]) -> str:
    """SHA-256 of the values as JSON gives them back, whatever the order and layout of the file."""
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
