"""Recordings as columns are what they are as rows."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_speech.data.recording import Recording
from megatron_speech.data.recording_table import joined, table_of
from megatron_speech.data.recordings import find_recordings
from megatron_speech.errors import DataError
from megatron_speech.io.rejected import Rejected

ROWS = [
    {"id": "a", "path": "x/a.wav", "text": "said", "speaker": "s", "language": "en"},
    {"id": "b", "path": "/elsewhere/b.wav", "text": None, "duration_s": 2.5},
    {"id": None, "path": "c.wav"},
    {"id": "d", "path": ""},
    {"id": "", "path": "e.wav"},
    {"id": "f", "path": "f.wav", "duration_s": -1.0},
    {"id": "g", "path": "g.wav", "duration_s": float("nan")},
    {"id": "h", "path": "h.wav", "duration_s": float("inf")},
    {"id": "a", "path": "again.wav"},
    {"id": "ä/ü", "path": "ö.wav", "text": "grün", "duration_s": 1.0},
    {"id": "b", "path": "and again.wav"},
    {"id": "i", "path": "../up/i.wav"},
]
NAMES = ("id", "path", "text", "speaker", "language", "duration_s")


def write_both(folder: Path, rows=ROWS) -> tuple[Path, Path]:
    """The same manifest as columns and as rows."""
    columns = {name: pa.array([row.get(name) for row in rows]) for name in NAMES}
    pq.write_table(pa.table(columns), folder / "m.parquet", row_group_size=5)
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "m.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder / "m.parquet", folder / "m.jsonl"


@pytest.mark.parametrize("root", [None, Path("/data")])
def test_columns_give_what_rows_give(tmp_path, root):
    columns, rows = (find_recordings([path], root) for path in write_both(tmp_path))
    assert list(columns.listed) == list(rows.listed)
    assert len(columns.listed) == 4
    assert columns.listed[0].path == str((root or tmp_path) / "x/a.wav")
    assert columns.listed[1].path == "/elsewhere/b.wav"
    reasons = [[(r.id, r.reason) for r in found.rejected] for found in (columns, rows)]
    assert reasons[0] == reasons[1]
    assert len(reasons[0]) == len(ROWS) - 4


@pytest.mark.parametrize("between", ["/", "//", "/./"])
def test_absolute_paths_below_the_manifest_move_with_it(tmp_path, between):
    rows = [
        {"id": "a", "path": f"{tmp_path}{between}x/a.wav"},
        {"id": "b", "path": "./b.wav"},
        {"id": "c", "path": ".hidden/c.wav"},
    ]
    for path in write_both(tmp_path, rows):
        found = find_recordings([path], Path("/data")).listed
        assert [r.path for r in found] == ["/data/x/a.wav", "/data/b.wav", "/data/.hidden/c.wav"]


def test_a_bad_value_costs_its_row(tmp_path):
    lengths = pa.array([2**62 + 1, -1], pa.int64())
    columns = {name: pa.array(["a", "b"]) for name in NAMES[:5]} | {"duration_s": lengths}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    found = find_recordings([tmp_path / "m.parquet"])
    assert [r.id for r in found.listed] == ["a"]
    assert [r.reason for r in found.rejected] == ["bad_duration"]


@pytest.mark.parametrize(
    "changes",
    [
        {"duration_s": pa.array(["1.5", "2.5"])},
        {"id": pa.array([7, 8])},
        {"speaker": pa.array(["s", "s"]).dictionary_encode()},
        {"text": pa.array(["fine", b"caf\xe9"], pa.binary()).cast(pa.string(), safe=False)},
        {"text": pa.nulls(2)},
    ],
    ids=["numbers in words", "numbers as ids", "dictionary", "no UTF-8", "no texts at all"],
)
def test_columns_of_other_types(tmp_path, changes):
    columns = {name: pa.array(["a", "b"]) for name in NAMES[:5]} | changes
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    found = find_recordings([tmp_path / "m.parquet"])
    broken = changes.get("text") is not None and changes["text"].null_count == 0
    assert [(r.id, r.reason) for r in found.rejected] == [("row 1", "invalid_utf8")][: int(broken)]
    assert [r.id for r in found.listed] == [str(i) for i in columns["id"].to_pylist()][
        : 2 - int(broken)
    ]
    assert found.listed.seconds == pytest.approx(4.0 if "duration_s" in changes else 0.0)


def test_a_list_without_a_usable_row_says_so(tmp_path):
    for path in write_both(tmp_path, ROWS[2:8]):
        with pytest.raises(DataError, match=r"not one of its 6 rows can be used: .*2 no_id"):
            find_recordings([path])


def test_everything_that_is_known_of_a_recording_is_kept():
    known = Recording(
        id="c",
        path=os.fsdecode(b"caf\xe9.wav"),
        text="t",
        speaker="s",
        language="l",
        duration_s=1.5,
        start_s=0.25,
        length_s=1.0,
        channels=(0, 2),
        tar_place=(512, 1 << 40),
    )
    many = [Recording(id=str(n), path=f"{n}.wav") for n in range(70_000)]
    bad: list[Rejected] = []
    skipped = Rejected("x", "no_path", "")
    table = joined([table_of([known, skipped, *many], bad), table_of([known], bad)], bad)
    assert list(table) == [known, *many]
    assert table[0] == known
    assert table[-1] == many[-1]
    assert table[69_990:80_000] == many[69_989:]
    assert table[4:2] == []
    assert table[2::-1] == [many[1], many[0], known]
    with pytest.raises(IndexError):
        table[70_001]
    assert (table.known_durations, table.seconds) == (1, 1.5)
    assert [r.reason for r in bad] == ["no_path", "duplicate_id"]
    empty = joined([], [])
    assert (len(empty), list(empty), empty.seconds, empty.known_durations) == (0, [], 0.0, 0)
