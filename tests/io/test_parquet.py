"""Damaged Parquet files, through every reader: a DataError that names the file, or the truth."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_speech.data.code_shards import CodeRecord, read_code_shard, write_code_shard
from megatron_speech.data.manifest import ManifestRow, read_manifest, read_texts, write_manifest
from megatron_speech.errors import DataError
from megatron_speech.interleaving.make_codes import read_report
from megatron_speech.interleaving.plan_folder import read_plan
from megatron_speech.io.parquet import read_parquet, write_parquet
from megatron_speech.text.corpora import read_pieces, split_inputs
from tests.interleaving.samples import INFO

ROWS = 400


def texts() -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices("abcdefgh ij", k=40)) for _ in range(ROWS)]


def shard(path: Path) -> None:
    numbers = np.random.default_rng(0)
    records = [
        CodeRecord(id=f"u{n}", codes=numbers.integers(0, INFO.num_codes, 30), text=text)
        for n, text in enumerate(texts())
    ]
    write_code_shard(path, records, INFO)


def manifest(path: Path) -> None:
    folder = path.parent
    rows = [
        ManifestRow(id=f"u{n}", path=folder / f"{n}.wav", text=text)
        for n, text in enumerate(texts())
    ]
    write_manifest(path, rows)


def text_list(path: Path) -> None:
    write_parquet(path, pa.table({"id": [f"u{n}" for n in range(ROWS)], "text": texts()}))


def report(path: Path) -> None:
    path.parent.mkdir()
    batches = np.random.default_rng(0).integers(0, 99, ROWS)
    write_parquet(path, pa.table({"batch": pa.array(batches), "reason": texts()}))


READERS = {
    "code shard": (shard, lambda path: [(r.id, *r.codes) for r in read_code_shard(path)[1]]),
    "manifest": (manifest, read_manifest),
    "text list": (text_list, read_texts),
    "corpus": (text_list, lambda path: list(read_pieces(split_inputs([path], 1)[0]))),
    "plan": (text_list, lambda path: [batch.to_pydict() for batch in read_plan(path)]),
    "report": (report, lambda path: read_report(path.parents[1], path.name)),
}


@pytest.fixture(params=READERS)
def file(request, tmp_path):
    """A good file and its reader."""
    write, read = READERS[request.param]
    folder = tmp_path / "reports" if request.param == "report" else tmp_path
    write(folder / "data.parquet")
    return folder / "data.parquet", read


def outcome(read, path):
    try:
        return read(path)
    except DataError as error:
        return error


def test_bytes_that_changed_are_found(file):
    path, read = file
    whole, expected = path.read_bytes(), read(path)
    rng, refused = random.Random(1), 0
    for _ in range(40):
        damaged = bytearray(whole)
        for position in rng.sample(range(4, len(whole) - 8), rng.choice([1, 20])):
            damaged[position] ^= 1 + rng.randrange(255)
        path.write_bytes(damaged)
        # what no checksum covers is the file's own description of itself
        found = outcome(read, path)
        assert isinstance(found, type(expected)) or "data.parquet" in str(found)
        refused += isinstance(found, DataError)
    assert refused > 20


def test_a_page_that_changed_is_refused_and_never_read_as_other_data(file):
    path, read = file
    whole, expected = path.read_bytes(), read(path)
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    rng, same = random.Random(2), 0
    for _ in range(30):
        damaged = bytearray(whole)
        position = start + rng.randrange(column.total_compressed_size)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        found = outcome(read, path)
        if isinstance(found, DataError):
            assert "data.parquet" in str(found)
        else:
            assert found == expected  # a bit of a page's header that does not matter
            same += 1
    assert same < 10


@pytest.mark.parametrize("keep", [0, 3, 0.3, 0.7, 0.99])
def test_a_file_cut_short_is_refused(file, keep):
    path, read = file
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(DataError, match=r"data\.parquet"):
        read(path)


def test_bytes_lost_in_the_middle_are_refused(file):
    path, read = file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3] + whole[len(whole) // 3 + 50 :])
    with pytest.raises(DataError, match=r"data\.parquet"):
        read(path)


def test_a_missing_column_is_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", pa.table({"x": [1]}))
    with pytest.raises(DataError, match="no column 'y'; it has x"):
        read_parquet(tmp_path / "a.parquet", ("x", "y"))
    table = pa.table({"id": ["a"]}).replace_schema_metadata(
        {"frame_rate_hz": "12.5", "num_codes": "64", "tokenizer_fingerprint": "t"}
    )
    write_parquet(tmp_path / "shard.parquet", table)
    with pytest.raises(DataError, match="no column 'codes'"):
        read_code_shard(tmp_path / "shard.parquet")


def test_a_footer_that_lies_about_rows_never_loses_or_repeats_texts(tmp_path):
    """No checksum covers the footer: each byte of its counts and places is changed."""
    path = tmp_path / "data.parquet"
    texts = [f"text {n}" for n in range(7)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=3, write_page_checksum=True)
    whole = path.read_bytes()
    size = int.from_bytes(whole[-8:-4], "little")
    refused = 0
    for position in range(len(whole) - 8 - size, len(whole) - 8):
        for change in (1, 2, 0x40):
            damaged = bytearray(whole)
            damaged[position] ^= change
            path.write_bytes(damaged)
            try:
                found = [
                    getattr(document, "text", None)
                    for share in split_inputs([path], 2)
                    for document in read_pieces(share)
                ]
            except DataError:
                refused += 1
            else:
                assert found == texts, f"byte {position} changed by {change}"
    assert refused > size // 2


@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_parquet(path, ("text",)),
        read_texts,
        lambda path: list(read_pieces(split_inputs([path], 1)[0])),
    ],
)
def test_two_columns_of_one_name_are_refused(tmp_path, read):
    table = pa.table([["a"], ["b"]], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="more than one column 'text'"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["id", "path", "duration_s"])
def test_times_in_a_manifest_are_named(tmp_path, name):
    row = {"id": "a", "path": "a.wav", "text": "", "speaker": "", "language": "", "duration_s": 1.0}
    table = pa.Table.from_pylist([row])
    times = pa.array([2**62], pa.timestamp("ns"))
    pq.write_table(
        table.set_column(table.column_names.index(name), name, times), tmp_path / "a.parquet"
    )
    with pytest.raises(DataError, match=f"column '{name}' holds timestamp"):
        read_manifest(tmp_path / "a.parquet")
