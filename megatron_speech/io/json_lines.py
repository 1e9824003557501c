"""One line of JSON lines: everything that can be wrong with it is caught here. Imports no torch."""

import codecs
import json
from typing import Any

from .rejected import Rejected


def parse_object(name: str, line: bytes) -> dict[str, Any] | Rejected:
    """The JSON object in a line of UTF-8, or why there is none; a byte-order mark is skipped.

    Strings of the object may hold half a surrogate pair: ask `is_unicode` about those you use.
    """
    try:
        record = json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UnicodeDecodeError as error:
        return Rejected(name, "invalid_utf8", str(error))
    except (ValueError, RecursionError) as error:  # ValueError: integers of above 4,300 digits
        return Rejected(name, "invalid_json", str(error))
    if not isinstance(record, dict):
        return Rejected(name, "invalid_json", f"expected an object, got {type(record).__name__}")
    return record


def is_unicode(*texts: str) -> bool:
    """False if half a surrogate pair came in, by a JSON escape or a file name that is no UTF-8."""
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def record_id(name: str, record: dict[str, Any], id_key: str = "id") -> str | Rejected:
    """The id that a JSON object gives itself, or else `name`."""
    given = record.get(id_key)
    if given is None:
        return name
    try:
        given = str(given)
    except RecursionError as error:
        return Rejected(name, "invalid_json", f"{id_key!r}: {error}")
    return given if is_unicode(given) else Rejected(given, "invalid_utf8", "in the id")
