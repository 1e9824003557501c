"""Lists of recordings: manifests, lhotse cuts, folders of audio, WebDataset tars."""

import gzip
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_speech.data.manifest import read_manifest
from megatron_speech.data.recordings import find_recordings
from megatron_speech.io.rejected import Rejected
from tests.fuzz.mutations import damaged, damaged_lines, damaged_table
from tests.fuzz.reader import Expected, Found, Reader

Damage = Callable[[random.Random, bytes, bytes], bytes]
TEXTS = ("ein Wort", "zwei Wörter", "", "two\u2028lines", "数 个 字", "nul \0 byte", "😀")


def rows() -> list[dict[str, Any]]:
    """A manifest's rows; without sound behind them."""
    return [
        {
            "id": f"row/{n}",
            "path": f"audio/{n}.wav",
            "text": text.replace("\0", ""),
            "speaker": f"s{n % 2}",
            "language": "de",
            "duration_s": 0.25 * (n + 1),
        }
        for n, text in enumerate(TEXTS)
    ]


def cuts() -> list[dict[str, Any]]:
    source = {"type": "file", "channels": [0, 1], "source": "audio/0.wav"}
    recording = {"id": "r", "sources": [source], "sampling_rate": 16000, "num_samples": 6400}
    return [
        {
            "id": f"cut-{n}",
            "start": 0.1 * n,
            "duration": 0.1,
            "channel": [0, 1][: 1 + n % 2] if n % 3 else 0,
            "type": "MonoCut" if n % 3 == 0 else "MultiCut",
            "recording": recording | {"duration": 0.4},
            "supervisions": [
                {"id": "a", "start": 0.0, "text": text, "speaker": "x", "language": "en"},
                {"id": "b", "start": -0.1, "text": "before", "speaker": "x", "language": "de"},
            ],
        }
        for n, text in enumerate(TEXTS)
    ]


def stored(content: bytes, name: str) -> bytes:
    """Compressed as the name says."""
    if name.endswith(".gz"):
        return gzip.compress(content, mtime=0)
    if name.endswith(".zst"):
        return pa.compress(content, codec="zstd", asbytes=True)
    return content


def damage_lines(name: str, rng: random.Random, folder: Path) -> None:
    """Lines or structure, before they are compressed; now and then what is compressed."""
    path = folder / name
    plain = (folder / "plain").read_bytes()
    way: Damage = rng.choice((damaged_lines,) * 3 + (damaged,))
    content = stored(way(rng, plain, plain), name)
    if content == path.read_bytes() or (name.endswith((".gz", ".zst")) and rng.random() < 0.3):
        content = damaged(rng, content, stored(plain, name))
    path.write_bytes(content)


def make_lines(name: str, values: Callable[[], list[dict[str, Any]]], folder: Path) -> None:
    lines = [json.dumps(value, ensure_ascii=n % 2 == 0) for n, value in enumerate(values())]
    plain = ("\n".join(lines) + "\n").encode()
    (folder / "plain").write_bytes(plain)
    (folder / name).write_bytes(stored(plain, name))


def plain_lines(path: Path) -> list[bytes] | None:
    """Lines that are not blank, None if they cannot be had."""
    content = path.read_bytes()
    try:
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        elif path.suffix == ".zst":
            with pa.CompressedInputStream(pa.BufferReader(content), "zstd") as stream:
                content = stream.read()
    except Exception:  # it is damaged: whatever is said of it
        return None
    return [line for line in content.split(b"\n") if line.strip()]


def expect_lines(name: str, read: Callable[[Path], Found], sample: Path, damaged: Path) -> Expected:
    """Lines that are as they were, by their ids; each line is an item or set aside."""
    lines = plain_lines(damaged / name)
    if lines is None:
        return Expected()
    items = dict(read(sample).items)
    intact = {}
    for line in set(lines) & set((sample / "plain").read_bytes().split(b"\n")):
        given = json.loads(line)["id"]
        intact[given] = items[given]
    return Expected(len(lines), intact)


def expect_rows(name: str, sample: Path, damaged: Path, read: Callable[[Path], Found]) -> Expected:
    """Rows of Parquet that are as they were, by their ids."""
    try:
        now, before = (_raw(folder / name) for folder in (damaged, sample))
    except Exception:  # it is damaged: whatever is said of it
        return Expected()
    items = dict(read(sample).items)
    same = [row["id"].decode() for row in before if row in now]
    return Expected(len(now), {key: items[key] for key in same})


def _raw(path: Path) -> list[dict[str, Any]]:
    """Rows with texts as bytes, which need not be UTF-8."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read()
    for at, column in enumerate(table.columns):
        if pa.types.is_string(column.type):
            name = table.column_names[at]
            table = table.set_column(at, name, column.cast(pa.large_binary()))
    return table.to_pylist()


def damage_parquet(name: str, rng: random.Random, folder: Path) -> None:
    """Columns, or bytes of the file."""
    path = folder / name
    content = path.read_bytes()
    if rng.random() < 0.5:
        sizes, codings = (1, 2, 100), ("none", "snappy", "zstd")
        try:
            table = damaged_table(rng, pq.read_table(path))
            pq.write_table(
                table, path, row_group_size=rng.choice(sizes), compression=rng.choice(codings)
            )
        except pa.ArrowException:  # no such column can be written
            path.write_bytes(content[:-1])
    else:
        path.write_bytes(damaged(rng, content, content[::-1]))


def _found(items: Any, rejected: list[Rejected]) -> Found:
    return Found([(item.id, item) for item in items], [item.id for item in rejected])


def _read_list(name: str, folder: Path) -> Found:
    found = find_recordings([folder / name])
    result = _found(found.listed[:], found.rejected)
    if "cuts" not in name:
        bad: list[Rejected] = []
        ids = [row.id for row in read_manifest(folder / name, bad)]
        assert ids == [item[0] for item in result.items], "the two readers of manifests differ"
        assert len(bad) == len(found.rejected), "the two readers of manifests differ"
    return Found(
        [(key, _without_folder(item, folder)) for key, item in result.items], result.set_aside
    )


def _without_folder(item: Any, folder: Path) -> tuple[Any, ...]:
    values = {name: getattr(item, name) for name in item.__slots__}
    return tuple((values | {"path": item.path.replace(str(folder), "")}).values())


def _make_tsv(folder: Path) -> None:
    names = list(rows()[0])
    lines = [names, *([str(row[name]) for name in names] for row in rows())]
    (folder / "m.tsv").write_text("".join("\t".join(line) + "\n" for line in lines), "utf-8")


def _damage_tsv(rng: random.Random, folder: Path) -> None:
    path = folder / "m.tsv"
    lines = path.read_bytes().split(b"\n")
    if rng.random() < 0.5:
        at = rng.randrange(1, len(lines) - 1)
        lines[at] = damaged(rng, lines[at], lines[1])
        path.write_bytes(b"\n".join(lines))
    else:
        path.write_bytes(damaged(rng, path.read_bytes(), b"\n".join(lines[::-1])))


def _expect_tsv(sample: Path, damaged: Path) -> Expected:
    before, now = ((f / "m.tsv").read_bytes().split(b"\n") for f in (sample, damaged))
    if before[0] != now[0]:
        return Expected()
    items = dict(_read_list("m.tsv", sample).items)
    same = [line.split(b"\t")[0].decode() for line in set(before[1:]) & set(now[1:]) if line]
    there = sum(1 for line in now[1:] if line.strip(b"\r"))
    return Expected(there, {key: items[key] for key in same})


def _make_parquet(folder: Path) -> None:
    table = pa.Table.from_pylist(rows())
    pq.write_table(table, folder / "m.parquet", write_page_checksum=True, row_group_size=3)


LISTS = [
    *(
        Reader(
            f"{kind} {name}",
            partial(make_lines, name, values),
            partial(damage_lines, name),
            partial(_read_list, name),
            partial(expect_lines, name, partial(_read_list, name)),
            spares_the_rest=True,
        )
        for kind, values, name in (
            ("manifest", rows, "m.jsonl"),
            ("manifest", rows, "m.jsonl.gz"),
            ("manifest", rows, "m.jsonl.zst"),
            ("lhotse", cuts, "cuts.jsonl.gz"),
            ("lhotse", cuts, "cuts.jsonl"),
        )
    ),
    Reader(
        "manifest m.tsv",
        _make_tsv,
        _damage_tsv,
        partial(_read_list, "m.tsv"),
        _expect_tsv,
        spares_the_rest=True,
    ),
    Reader(
        "manifest m.parquet",
        _make_parquet,
        partial(damage_parquet, "m.parquet"),
        partial(_read_list, "m.parquet"),
        lambda sample, damaged: expect_rows(
            "m.parquet", sample, damaged, partial(_read_list, "m.parquet")
        ),
    ),
]
