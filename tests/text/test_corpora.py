import gzip
import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_speech.errors import ConfigError, DataError
from megatron_speech.io.rejected import Rejected
from megatron_speech.text.corpora import (
    Document,
    find_texts,
    fingerprint_inputs,
    read_pieces,
    split_inputs,
)
from tests.interleaving.samples import write_corpus


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


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "x", "n": ' + b"7" * 6000 + b"}", "invalid_json"),
        (b'{"text": "x", "id": -' + b"7" * 6000 + b"}", "invalid_json"),
        (b'{"text": "x", "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
        (b'{"text": "x", "id": "\\udc80"}', "invalid_utf8"),
        (b'{"text": ["\\ud800"]}', "not_text"),
        (b"\0\0\0", "invalid_json"),
        (b'{"text": "\0"', "invalid_json"),
    ],
)
def test_whatever_a_line_holds_it_costs_no_other(tmp_path, line, reason):
    good = b'{"id": "good", "text": "fine"}'
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good, line, good]))
    first, bad, last = read_all(tmp_path)
    assert first == last == Document("good", "fine")
    assert isinstance(bad, Rejected)
    assert bad.reason == reason


def test_a_byte_order_mark_belongs_to_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "first"}\r\n')
    assert read_all(tmp_path) == [Document("a", "first")]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(),
        pa.binary_view(), pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_of_string_is_text(tmp_path, kind):
    values = ["été", None, "so long that it lies in another buffer"]
    if "binary" in str(kind):
        values = [value and value.encode() for value in values]
    column = pa.array(values, kind)
    pq.write_table(pa.table({"text": column, "id": column}), tmp_path / "a.parquet")
    found = read_all(tmp_path)
    assert found[0] == Document("été", "été")
    assert found[1] == Rejected("a.parquet:1", "null_text")
    assert found[2].id == "so long that it lies in another buffer"


def test_dates_that_python_does_not_have_are_ids_too(tmp_path):
    ids = pa.array([1_700_000_000_123_456_789, 1], pa.timestamp("ns"))
    pq.write_table(pa.table({"text": ["one", "two"], "id": ids}), tmp_path / "a.parquet")
    found = read_all(tmp_path)
    assert found[0].id.endswith(".123456789")
    assert found[0].id != found[1].id


def test_suffixes_in_capitals_and_files_that_systems_leave(tmp_path):
    line = json.dumps({"id": "a", "text": "hello"}).encode() + b"\n"
    (tmp_path / "A.JSONL.GZ").write_bytes(gzip.compress(line))
    with pa.CompressedOutputStream(str(tmp_path / "B.Jsonl.ZST"), "zstd") as stream:
        stream.write(line)
    (tmp_path / "C.NDJSON").write_bytes(line)
    (tmp_path / "D.parquet").mkdir()  # as Spark writes it
    pq.write_table(
        pa.table({"id": ["a"], "text": ["hello"]}), tmp_path / "D.parquet/part-0.PARQUET"
    )
    for name in (
        "._A.JSONL.GZ",
        ".b.parquet",
        "D.parquet/.part-0.PARQUET.crc",
        "D.parquet/._p.jsonl",
    ):
        (tmp_path / name).write_bytes(b"\0\5\x16\7Mac OS X")
    for name in ("_SUCCESS", "D.parquet/_SUCCESS", "D.parquet/_metadata"):
        (tmp_path / name).touch()
    assert read_all(tmp_path) == [Document("a", "hello")] * 4
    assert read_all(f"file://{tmp_path}") == [Document("a", "hello")] * 3
    assert read_all(f"{tmp_path}/D.parquet/*") == [Document("a", "hello")]


def test_unusable_rows_are_set_aside(tmp_path):
    raw = pa.array([b"fine", b"\xff\xfe", None, b" "], pa.binary())
    strings = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    pq.write_table(pa.table({"text": strings}), tmp_path / "a.parquet")
    records = read_all(tmp_path)
    assert records[0] == Document("a.parquet:0", "fine")
    assert [r.reason for r in records[1:]] == ["invalid_utf8", "null_text", "empty_text"]


def test_a_window_that_zstd_refuses_is_named_as_such(tmp_path):
    """A frame by hand: its header asks for 256 MiB, its one block is stored as it is."""
    line = b'{"text": "hello"}\n'
    block = (len(line) << 3 | 1).to_bytes(3, "little") + line
    frame = b"\x28\xb5\x2f\xfd" + b"\0" + bytes([(28 - 10) << 3]) + block
    (tmp_path / "a.jsonl.zst").write_bytes(frame)
    with pytest.raises(DataError, match=r"window of more than 128 MiB .* zstd -dc --long=31"):
        read_all(tmp_path)


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


def test_patterns(tmp_path):
    write_corpus(tmp_path / "a.parquet", 3)
    write_corpus(tmp_path / "b.parquet", 4)
    assert len(read_all(str(tmp_path / "*.parquet"))) == 7


@pytest.fixture
def store(tmp_path):
    """A bucket of fsspec's that lives in memory, with a file of every kind."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/deep/ignored.csv", b"")
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


def test_ids_that_are_bytes_are_the_text_they_spell(tmp_path):
    ids = pa.array([b"a", b"\xff"], pa.binary())
    pq.write_table(pa.table({"id": ids, "text": ["one", "two"]}), tmp_path / "a.parquet")
    assert [document.id for document in read_all(tmp_path)] == ["a", "\\xff"]


def test_ids_that_are_times_are_written_out(tmp_path):
    ids = pa.array([0, 2**62], pa.timestamp("ns"))
    pq.write_table(pa.table({"id": ids, "text": ["one", "two"]}), tmp_path / "a.parquet")
    first, second = (document.id for document in read_all(tmp_path))
    assert first.startswith("1970-01-01")
    assert second.startswith("2116-")
