"""Unit sequences of other projects, as tools/import_codes.py reads them."""

import random
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_speech.data.code_shards import read_code_shards
from megatron_speech.data.import_codes import ImportCodesConfig, import_codes
from megatron_speech.io.rejected import read_rejected
from tests.fuzz.list_readers import damage_lines, damage_parquet, expect_lines, make_lines
from tests.fuzz.mutations import damaged
from tests.fuzz.reader import Found, Reader


def _rows() -> list[dict[str, Any]]:
    return [
        {"id": f"unit-{n}", "units": [n, n + 1, 7], "duration": [1, 2, n + 1], "text": f"Wort {n}"}
        for n in range(6)
    ]


def _read(name: str, folder: Path) -> Found:
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "codes"
        import_codes(
            ImportCodesConfig(
                input=(folder / name,), output=output, name="u", frame_rate_hz=25.0, num_codes=16
            )
        )
        _, records = read_code_shards(output)
        items = [(r.id, (r.codes.tolist(), r.text, round(r.duration_s, 3))) for r in records]
        log = output / "rejected.jsonl"
        return Found(items, [one.id for one in read_rejected(log)] if log.exists() else [])


def _make_parquet(folder: Path) -> None:
    pq.write_table(pa.Table.from_pylist(_rows()), folder / "u.parquet", write_page_checksum=True)


def _make_arrays(folder: Path) -> None:
    arrays: dict[str, Any] = {row["id"]: np.array([row["units"]] * 2) for row in _rows()}
    np.savez(folder / "u.npz", **arrays)


def _damage_arrays(rng: random.Random, folder: Path) -> None:
    content = (folder / "u.npz").read_bytes()
    (folder / "u.npz").write_bytes(damaged(rng, content, content[::-1]))


UNITS = [
    *(
        Reader(
            f"units {name}",
            partial(make_lines, name, _rows),
            partial(damage_lines, name),
            partial(_read, name),
            partial(expect_lines, name, partial(_read, name)),
            spares_the_rest=True,
        )
        for name in ("u.jsonl", "u.jsonl.gz", "u.jsonl.zst")
    ),
    Reader("units u.parquet", _make_parquet, partial(damage_parquet, "u.parquet"),
           partial(_read, "u.parquet")),
    Reader("units u.npz", _make_arrays, _damage_arrays, partial(_read, "u.npz")),
]  # fmt: skip
