import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_speech.data.code_shards import (
    CodeRecord,
    read_code_shard,
    read_code_shards,
    write_code_shard,
)
from megatron_speech.errors import DataError
from tests.interleaving.samples import INFO, write_codes

OTHER = dataclasses.replace(INFO, tokenizer_fingerprint="tok-b")


def test_records_come_back_as_written(tmp_path):
    written = write_codes(tmp_path / "a.parquet")
    empty = CodeRecord(id="nothing", codes=np.zeros(0, np.int64))
    write_code_shard(tmp_path / "b.parquet", [*written, empty], INFO)
    info, records = read_code_shard(tmp_path / "b.parquet")
    assert info == INFO
    for ours, theirs in zip([*written, empty], records, strict=True):
        assert ours.codes.tolist() == theirs.codes.tolist()
        assert dataclasses.replace(ours, codes=None) == dataclasses.replace(theirs, codes=None)


def test_a_shard_without_records(tmp_path):
    write_code_shard(tmp_path / "a.parquet", [], INFO)
    assert read_code_shard(tmp_path / "a.parquet") == (INFO, [])


def test_large_codebooks_keep_their_codes(tmp_path):
    info = dataclasses.replace(INFO, num_codes=70_000)
    record = CodeRecord(id="x", codes=np.array([0, 69_999]))
    write_code_shard(tmp_path / "a.parquet", [record], info)
    assert read_code_shard(tmp_path / "a.parquet")[1][0].codes.tolist() == [0, 69_999]


@pytest.mark.parametrize("codes", [[0, 64], [-1, 3]])
def test_writing_a_code_out_of_range_is_refused(tmp_path, codes):
    with pytest.raises(DataError, match=r"codes 0\.\.63"):
        write_code_shard(tmp_path / "a.parquet", [CodeRecord(id="x", codes=np.array(codes))], INFO)
    assert not (tmp_path / "a.parquet").exists()


def test_reading_a_code_out_of_range_is_refused(tmp_path):
    write_codes(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    metadata = {**table.schema.metadata, b"num_codes": b"10"}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="damaged"):
        read_code_shard(tmp_path / "a.parquet")


def test_shards_of_two_tokenizers_do_not_mix(tmp_path):
    write_codes(tmp_path / "a.parquet")
    write_codes(tmp_path / "b.parquet", info=OTHER)
    with pytest.raises(DataError, match=r"b.parquet was made by speech tokenizer tok-b"):
        read_code_shards(tmp_path)
    with pytest.raises(DataError, match="expected tok-b"):
        read_code_shards(tmp_path / "a.parquet", "tok-b")


def test_several_shards_are_one_stream(tmp_path):
    first = write_codes(tmp_path / "a.parquet", 5)
    second = write_codes(tmp_path / "b.parquet", 7)
    info, records = read_code_shards(tmp_path)
    assert info == INFO
    assert [r.id for r in records] == [r.id for r in [*first, *second]]


def test_files_that_are_no_shards(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_code_shard(tmp_path / "none.parquet")
    with pytest.raises(DataError, match="no code shards"):
        read_code_shards(tmp_path)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="cannot be read"):
        read_code_shard(tmp_path / "cut.parquet")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="metadata lacks"):
        read_code_shard(tmp_path / "other.parquet")


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("id", pa.array([1])),
        ("id", pa.array([None], pa.string())),
        ("text", pa.array([["a"]])),
        ("speaker", pa.array([1.5])),
        ("duration_s", pa.array(["long"])),
        ("codes", pa.array(["1 2"])),
        ("codes", pa.array([None], pa.list_(pa.int32()))),
        ("codes", pa.array([[1, None]], pa.list_(pa.int32()))),
        ("codes", pa.array([[0.5]])),
    ],
)
def test_columns_of_another_kind_are_refused(tmp_path, name, column):
    path = tmp_path / "a.parquet"
    write_codes(path, 1)
    table = pq.read_table(path)
    at = table.column_names.index(name)
    pq.write_table(table.set_column(at, name, column), path)
    with pytest.raises(DataError, match=f"column '{name}'"):
        read_code_shard(path)
