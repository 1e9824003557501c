import gzip
import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_speech.corpus.sources import (
    Document,
    find_texts,
    fingerprint_inputs,
    read_pieces,
    split_inputs,
)
from megatron_speech.errors import ConfigError, DataError
from megatron_speech.rejected import Rejected
from tests.corpus.samples import write_corpus


def read_all(paths, tasks=1, **keys):
    return [
        record
        for pieces in split_inputs(find_texts(paths), tasks)
        for record in read_pieces(pieces, **keys)
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=30))
def test_any_number_of_tasks_reads_every_record_once_in_order(tmp_path_factory, tasks, texts):
    folder = tmp_path_factory.mktemp("corpus")
    lines = [json.dumps({"id": n, "text": text}) for n, text in enumerate(texts)]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(50)]}), folder / "b.parquet")
    with gzip.open(folder / "c.jsonl.gz", "wt") as stream:
        stream.write("\n".join(lines))
    assert read_all(folder, tasks) == read_all(folder, 1)
    assert len(read_all(folder, tasks)) == 2 * len(texts) + 50


def test_compressed_kinds(tmp_path):
    line = json.dumps({"id": "a", "text": "hello"}).encode() + b"\n"
    with pa.CompressedOutputStream(str(tmp_path / "a.jsonl.zst"), "zstd") as stream:
        stream.write(line)
    with gzip.open(tmp_path / "b.jsonl.gz", "wb") as stream:
        stream.write(line)
    assert read_all(tmp_path) == [Document("a", "hello")] * 2


def test_unusable_lines_are_set_aside_and_the_rest_unharmed(tmp_path):
    lines = [
        b'{"id": "good", "text": "fine"}',
        b'{"id": "null", "text": null}',
        b'{"id": "number", "text": 3}',
        b'{"id": "empty", "text": "  \\n"}',
        b'{"id": "half", "text": "\\ud83d"}',
        b'{"id": "bytes", "text": "\xff\xfe"}',
        b'{"id": "cut", "text": "fi',
        b'["a list"]',
        b'{"id": "other"}',
        b"",
        b'{"text": "no id"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    records = read_all(tmp_path)
    good = [record for record in records if isinstance(record, Document)]
    assert [record.text for record in good] == ["fine", "no id"]
    reasons = [record.reason for record in records if isinstance(record, Rejected)]
    assert reasons == [
        "null_text",
        "not_text",
        "empty_text",
        "invalid_utf8",
        "invalid_utf8",
        "invalid_json",
        "invalid_json",
        "no_such_key",
    ]


def test_unusable_rows_are_set_aside(tmp_path):
    raw = pa.array([b"fine", b"\xff\xfe", None, b" "], pa.binary())
    strings = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    pq.write_table(pa.table({"text": strings}), tmp_path / "a.parquet")
    records = read_all(tmp_path)
    assert records[0] == Document("a.parquet:0", "fine")
    assert [r.reason for r in records[1:]] == ["invalid_utf8", "null_text", "empty_text"]


def test_a_missing_column_and_a_column_of_numbers_are_refused(tmp_path):
    write_corpus(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'body'; it has id, text"):
        read_all(tmp_path, text_key="body")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="holds int64, expected text"):
        read_all(tmp_path)


def test_missing_empty_unknown_and_damaged_inputs(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        find_texts(tmp_path / "nothing.parquet")
    with pytest.raises(DataError, match=r"no \.parquet or \.jsonl"):
        find_texts(tmp_path)
    (tmp_path / "a.csv").write_text("text\nhello\n")
    with pytest.raises(DataError, match="no known corpus format"):
        find_texts(tmp_path / "a.csv")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_all(tmp_path)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 1000)[:-10])
    with pytest.raises(DataError, match="cut short"):
        read_all(tmp_path / "b.jsonl.gz")


@pytest.mark.parametrize(
    "kind", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_texts_and_ids_of_every_string_type(kind, tmp_path):
    """string_view is what polars writes."""
    texts = pa.array(["one", None, "drei \U0001f600"]).cast(kind)
    ids = pa.array(["a", "b", "c"]).cast(kind)
    pq.write_table(pa.table({"id": ids, "text": texts}), tmp_path / "a.parquet")
    first, second, third = read_all(tmp_path)
    assert [first, third] == [Document("a", "one"), Document("c", "drei \U0001f600")]
    assert (second.id, second.reason) == ("b", "null_text")


def test_what_one_line_may_hold_costs_that_line_alone(tmp_path):
    digits = b"1" * 5000
    lines = [
        b'\xef\xbb\xbf{"id": "marked", "text": "after a byte-order mark"}',
        b'{"id": "long", "text": "x", "n": ' + digits + b"}",
        b'{"id": ' + digits + b', "text": "x"}',
        b'{"id": "\\ud800", "text": "x"}',
        b'{"text": "x", "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"id": "last", "text": "fine"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    records = read_all(tmp_path)
    assert [r.id for r in records if isinstance(r, Document)] == ["marked", "last"]
    reasons = [record.reason for record in records if isinstance(record, Rejected)]
    assert reasons == ["invalid_json", "invalid_json", "invalid_utf8", "invalid_json"]
    assert all(str(record.id).encode() for record in records)


def test_names_in_capitals_and_hidden_files(tmp_path):
    line = json.dumps({"id": "a", "text": "hello"}).encode() + b"\n"
    (tmp_path / "A.JSONL.GZ").write_bytes(gzip.compress(line))
    with pa.CompressedOutputStream(str(tmp_path / "B.Jsonl.Zst"), "zstd") as stream:
        stream.write(line)
    pq.write_table(pa.table({"id": ["c"], "text": ["hi"]}), tmp_path / "C.PARQUET")
    for name in ("._A.JSONL.GZ", "._C.PARQUET", ".d.jsonl", "_SUCCESS"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    assert read_all(tmp_path) == [Document("a", "hello")] * 2 + [Document("c", "hi")]


def test_a_zstd_window_that_readers_refuse_is_not_called_damage(tmp_path):
    """A frame by hand: a window of 256 MiB, one block as it is."""
    content = b'{"text": "hello"}\n'
    block = (len(content) << 3 | 1).to_bytes(3, "little") + content
    frame = bytes.fromhex("28b52ffd") + bytes([0, 18 << 3]) + block
    (tmp_path / "a.jsonl.zst").write_bytes(frame)
    with pytest.raises(DataError, match=r"window above 128 MiB.*zstd -dc --long=31"):
        read_all(tmp_path)
    (tmp_path / "a.jsonl.zst").write_bytes(frame.replace(bytes([18 << 3]), bytes([17 << 3]), 1))
    assert [record.text for record in read_all(tmp_path)] == ["hello"]


def test_patterns(tmp_path):
    write_corpus(tmp_path / "a.parquet", 3)
    write_corpus(tmp_path / "b.parquet", 4)
    assert len(read_all(str(tmp_path / "*.parquet"))) == 7


@pytest.fixture
def store(tmp_path):
    """A bucket of fsspec's that lives in memory, with a file of every kind."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/deep/ignored.csv", b"")
    memory.pipe("/bucket/._2.jsonl", b"hidden")
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["one", "two"]}), tmp_path / "1.parquet")
    line = json.dumps({"id": "c", "text": "three"}).encode() + b"\n"
    with pa.CompressedOutputStream(str(tmp_path / "4.jsonl.zst"), "zstd") as stream:
        stream.write(line)
    (tmp_path / "2.jsonl").write_bytes(line * 3)
    (tmp_path / "3.jsonl.gz").write_bytes(gzip.compress(line))
    for path in sorted(tmp_path.iterdir()):
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    yield tmp_path
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("tasks", [1, 3, 11])
def test_a_remote_folder_reads_as_the_local_one(store, tasks):
    expected = read_all(store)
    assert [record.id for record in expected] == ["a", "b", "c", "c", "c", "c", "c"]
    assert read_all("memory://bucket", tasks) == expected
    patterns = ["memory://bucket/*.parquet", "memory://bucket/[23].jsonl*", f"file://{store}/4*"]
    assert read_all(patterns, tasks) == expected


def test_remote_files_are_known_by_their_version(store):
    url = "memory://bucket/2.jsonl"
    before = fingerprint_inputs(find_texts(url))
    assert fingerprint_inputs(find_texts(url)) == before
    fsspec.filesystem("memory").pipe("/bucket/2.jsonl", b'{"text": "other"}\n')
    assert fingerprint_inputs(find_texts(url)) != before


def test_remote_corpora_that_cannot_be_read(store):
    with pytest.raises(DataError, match=r"memory://bucket/none.jsonl cannot be read"):
        find_texts("memory://bucket/none.jsonl")
    with pytest.raises(DataError, match="does not exist"):
        find_texts("memory://bucket/none*.jsonl")
    with pytest.raises(DataError, match="no known corpus format"):
        find_texts("memory://bucket/deep")
    with pytest.raises(ConfigError, match="nosuch"):
        find_texts("nosuch://bucket/a.jsonl")
    fsspec.filesystem("memory").pipe("/bucket/1.parquet", b"not Parquet")
    with pytest.raises(DataError, match=r"memory:///?bucket/1.parquet cannot be read as Parquet"):
        read_all("memory://bucket/1.parquet")
