"""Ways to damage a file, each a function of a random generator: one seed, one damage."""

import json
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa

Bytes = Callable[[random.Random, bytes, bytes], bytes]

_EXTREMES = (0, 1, 2, 127, 255, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63)
_HEADER_BYTES = 128
_HOLE = "\x1athe hole\x1a"

RAW_JSON = (
    *(
        "1" * 5000,
        "-" + "9" * 400,
        "1e999",
        "-1e999",
        "1e-999",
        "-1",
        "0",
        "0.5",
        "NaN",
        "Infinity",
    ),
    *("9223372036854775808", "-9223372036854775809", "18446744073709551616", "null", "true"),
    *(
        "[]",
        "{}",
        "[[]]",
        "[1, null]",
        "[null]",
        '{"content": 1}',
        '[{"type": "file"}]',
        '""',
        '" "',
    ),
    *("[" * 100_000, "[" * 50_000 + "]" * 50_000, '{"a":' * 900 + "1" + "}" * 900),
    *('"\\ud800"', '"x\\udfffy"', '"\\ud83d\\ude00"', '"\\u0000"', '"\ufeff"', '"\\u2028\\u0085"'),
    *('"' + "x" * 100_000 + '"', '"/dev/zero"', '"."', '"../.."', '"a\\tb\\r\\nc"', '"1"', '"inf"'),
)
"""Values that a strict reader, and a number, a path or a text in it, may stumble over."""


def _bit_flips(rng: random.Random, content: bytes, other: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        place = _place(rng, len(changed))
        if changed:
            changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _place(rng: random.Random, size: int) -> int:
    """Half of the time where headers are, at the beginning or at the end."""
    near = min(_HEADER_BYTES, max(size, 1))
    kinds = (rng.randrange(max(size, 1)), rng.randrange(near), size - 1 - rng.randrange(near))
    return max(rng.choice((kinds[0], *kinds)), 0)


def _truncation(rng: random.Random, content: bytes, other: bytes) -> bytes:
    return content[: _place(rng, len(content))]


def _insertion(rng: random.Random, content: bytes, other: bytes) -> bytes:
    place = _place(rng, len(content))
    return content[:place] + rng.randbytes(rng.choice((1, 2, 4, 100, 5000))) + content[place:]


def _removal(rng: random.Random, content: bytes, other: bytes) -> bytes:
    place = _place(rng, len(content))
    return content[:place] + content[place + rng.choice((1, 2, 4, 100, 1000)) :]


def _repetition(rng: random.Random, content: bytes, other: bytes) -> bytes:
    first, second = sorted((_place(rng, len(content)), _place(rng, len(content))))
    return content[:second] + content[first:second] * rng.choice((1, 2, 20)) + content[second:]


def _filling(rng: random.Random, content: bytes, other: bytes) -> bytes:
    place, size = _place(rng, len(content)), rng.choice((1, 4, 16, 512))
    filler = rng.choice((b"\0", b"\xff", b"\n", b" ", b"\xef\xbb\xbf"))
    return content[:place] + filler * size + content[place + size * len(filler) :]


def _extreme_number(rng: random.Random, content: bytes, other: bytes) -> bytes:
    place, size = _place(rng, len(content)), rng.choice((1, 2, 4, 8))
    number = rng.choice(_EXTREMES) & (1 << 8 * size) - 1
    written = number.to_bytes(size, rng.choice(("little", "big")))
    return content[:place] + written + content[place + size :]


def _splice(rng: random.Random, content: bytes, other: bytes) -> bytes:
    return content[: _place(rng, len(content))] + other[_place(rng, len(other)) :]


def _joined(rng: random.Random, content: bytes, other: bytes) -> bytes:
    return content + rng.choice((content, other, other[: _place(rng, len(other))], b"\0" * 1000))


BYTES: tuple[Bytes, ...] = (
    *(_bit_flips, _truncation, _insertion, _removal, _repetition, _filling),
    *(_extreme_number, _extreme_number, _splice, _joined),
)


def damaged(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """Bytes of a file after one to three damages; `other` is a second file of the kind."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = rng.choice(BYTES)(rng, content, other)
    return content


def _holes(value: Any) -> list[tuple[Any, Any]]:
    """Every place of a JSON value, as container and key."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], dict | list):
            found += _holes(value[key])
    return found


def damaged_json(rng: random.Random, value: Any) -> str:
    """A JSON value with one place of its structure changed, as text that may be no JSON."""
    whole = [json.loads(json.dumps(value))]
    holes = _holes(whole)
    container, key = rng.choice(holes[1:] or holes)
    action = rng.choice(("value", "value", "value", "remove", "rename", "again", "wrap", "all"))
    if action == "all":
        return rng.choice(RAW_JSON)
    raw = rng.choice(RAW_JSON)
    if action == "remove" or (action in ("rename", "again") and not isinstance(container, dict)):
        del container[key]
    elif action == "rename":
        container[rng.choice((f"{key}s", str(key).upper(), "", "\ud800", "__class__"))] = (
            container.pop(key)
        )
    elif action == "wrap":
        container[key] = rng.choice(([container[key]], {"value": container[key]}))
    else:
        place = key if action == "value" else _HOLE
        container[place] = _HOLE
    written = json.dumps(whole[0] if whole else None)
    hole = json.dumps(_HOLE)
    if action == "again":
        return written.replace(f"{hole}: {hole}", f"{json.dumps(key)}: {raw}")
    return written.replace(hole, raw)


def damaged_lines(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """JSON lines with the structure of some changed, or their order, or what is between them."""
    lines = content.split(b"\n")
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(max(len(lines) - 1, 1))
        action = rng.choice(("structure",) * 6 + ("again", "swap", "ends", "bytes", "other"))
        if action == "structure" and lines[at].startswith(b"{"):
            try:
                value = json.loads(lines[at])
            except (ValueError, RecursionError):
                continue
            written = damaged_json(rng, value)
            lines[at] = written.encode("utf-8", "surrogatepass")
        elif action == "again":
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif action == "swap":
            lines[at], lines[0] = lines[0], lines[at]
        elif action == "ends":
            lines[at] += rng.choice(
                (b"\r", b"\0", b"\n", b" \n\t", b"\xe2\x80\xa8", b"\x0c", b"//")
            )
        elif action == "bytes":
            lines[at] = damaged(rng, lines[at], lines[0])
        else:
            lines[at] = rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"")) + lines[at]
    return b"\n".join(lines)


def damaged_table(rng: random.Random, table: pa.Table) -> pa.Table:
    """A table with one column of another type, or without sense, or with one row so."""
    name = rng.choice(table.column_names)
    at, rows = table.column_names.index(name), table.num_rows
    values = table[name].to_pylist()
    action = rng.choice(("row", "row", "type", "type", "type", "drop", "rename", "empty", "again"))
    if action == "drop":
        return table.drop_columns([name])
    if action == "rename":
        return table.rename_columns([f"{c}s" if c == name else c for c in table.column_names])
    if action == "empty":
        return table.slice(0, 0)
    if action == "again":
        return table.append_column(name, table[name])
    if action == "row":
        values[rng.randrange(rows)] = None
        if pa.types.is_string(table[name].type) and rng.random() < 0.7:
            raw: list[Any] = [None if v is None else v.encode() for v in values]
            raw[rng.randrange(rows)] = rng.choice(
                (b"\xff", b"\xed\xa0\x80", b"a\0b", b"\xef\xbb\xbf", b"", b"x" * 100_000)
            )
            column = pa.array(raw, pa.binary())
            return table.set_column(at, name, _as_strings(column))
        return table.set_column(at, name, pa.array(values, table[name].type))
    return table.set_column(at, name, _another_type(rng, values))


def _as_strings(column: pa.Array) -> pa.Array:
    """Bytes called strings, without the check that they are UTF-8."""
    return pa.Array.from_buffers(pa.string(), len(column), column.buffers(), column.null_count)


def _another_type(rng: random.Random, values: list[Any]) -> pa.Array:
    rows = len(values)
    text = [None if value is None else str(value)[:50] for value in values]
    return rng.choice(
        (
            lambda: pa.array(range(rows), pa.int64()),
            lambda: pa.array([2**64 - 1] * rows, pa.uint64()),
            lambda: pa.array([float("nan"), *[1e300] * (rows - 1)]),
            lambda: pa.array([-1.0, float("inf"), *[0.5] * (rows - 2)]),
            lambda: pa.array([True] * rows),
            lambda: pa.array([[1, None]] * rows),
            lambda: pa.array([[-1, 2**31]] * rows, pa.list_(pa.int64())),
            lambda: pa.array([[0.5]] * rows),
            lambda: pa.array([["a"]] * rows),
            lambda: pa.array([{"a": 1}] * rows),
            lambda: pa.array([None] * rows),
            lambda: pa.array([None] * rows, pa.string()),
            lambda: pa.array(text).dictionary_encode(),
            lambda: pa.array(text, pa.large_string()),
            lambda: pa.array(text, pa.string_view()),
            lambda: pa.array([None if t is None else t.encode() for t in text], pa.binary()),
            lambda: pa.array([b"\xff\xfe"] * rows, pa.binary()),
            lambda: pa.array([b"ab"] * rows, pa.binary(2)),
            lambda: pa.array([2**62] * rows, pa.timestamp("ns")),
            lambda: pa.array([2**62] * rows, pa.timestamp("s")),
            lambda: pa.array([10] * rows, pa.decimal128(10, 2)),
            lambda: pa.array([1] * rows, pa.duration("s")),
            lambda: pa.array([0.5] * rows, pa.float16()),
        )
    )()
