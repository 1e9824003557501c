"""A line of JSON lines: whatever is wrong with it is said of that line alone."""

import json
from pathlib import Path

import pytest

from megatron_speech.io.json_lines import is_unicode, parse_object
from megatron_speech.io.rejected import Rejected, read_rejected, write_rejected

BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"n": ' + b"7" * 5000 + b"}", "invalid_json"),
        (b'{"n": -' + b"7" * 5000 + b"}", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"a": 1', "invalid_json"),
        (b'["a"]', "invalid_json"),
        (BOM + BOM + b"{}", "invalid_json"),
        (b'{"a": "caf\xe9"}', "invalid_utf8"),
        ('{"a": 1}'.encode("utf-16"), "invalid_utf8"),
        (b'{"a": "\xed\xa0\x80"}', "invalid_utf8"),  # half a pair, written as bytes
    ],
)
def test_what_is_no_object_is_set_aside_with_its_reason(line: bytes, reason: str) -> None:
    found = parse_object("line 7", line)
    assert isinstance(found, Rejected)
    assert (found.id, found.reason) == ("line 7", reason)
    assert found.detail


def test_a_byte_order_mark_is_no_part_of_the_line() -> None:
    assert parse_object("x", BOM + b'{"a": "\xef\xbb\xbfb"}') == {"a": "\ufeffb"}


def test_halves_of_pairs_are_seen_and_can_be_written(tmp_path: Path) -> None:
    record = parse_object("x", b'{"id": "a\\ud800", "text": "\\ud83d\\ude00"}')
    assert isinstance(record, dict)
    assert not is_unicode(record["id"])
    assert is_unicode(record["text"])
    rejected = [Rejected(record["id"], "invalid_utf8", f"\u00e9 {record['id']}")]
    assert write_rejected(tmp_path / "r.jsonl", rejected) == {"invalid_utf8": 1}
    assert json.loads((tmp_path / "r.jsonl").read_text("utf-8")) == {
        "id": "a\\ud800",
        "reason": "invalid_utf8",
        "detail": "\u00e9 a\\ud800",
    }


def test_what_is_set_aside_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Ids with what other readers take for ends of lines."""
    rejected = [Rejected(f"a{mark}b", "missing", f"{mark}") for mark in "\u2028\u2029\x85\x0b\r\n"]
    write_rejected(tmp_path / "r.jsonl", rejected)
    assert read_rejected(tmp_path / "r.jsonl") == rejected
