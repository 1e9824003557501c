"""Manifests: the user's own recordings, in words where they cannot be used."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from megatron_speech.data.manifest import ManifestRow, read_manifest, read_texts, write_manifest
from megatron_speech.data.recordings import find_recordings
from megatron_speech.errors import DataError
from megatron_speech.io.rejected import Rejected, count_reasons
from megatron_speech.text.corpora import find_texts


def test_manifest_of_own_recordings(tmp_path: Path) -> None:
    tsv = tmp_path / "own.tsv"
    tsv.write_text('id\tpath\ttext\tspeaker\tlanguage\na\tx.wav\tsay "this"\tEva\ten\n')
    assert read_manifest(tsv) == [
        ManifestRow(
            id="a", path=tmp_path / "x.wav", text='say "this"', speaker="Eva", language="en"
        )
    ]
    rows = [ManifestRow(id="b", path=tmp_path / "sub" / "y.wav", text="t", duration_s=1.5)]
    write_manifest(tmp_path / "m.parquet", rows)
    assert read_manifest(tmp_path / "m.parquet") == rows
    assert pq.read_table(tmp_path / "m.parquet")["path"].to_pylist() == ["sub/y.wav"]


HEADER = b"id\tpath\ttext\tspeaker\tlanguage\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"id\tpath\ttext\tspeaker\na\tx\ty\tz\n", "no column 'language'"),
        (b"id\tpath\ttext\tspeaker\tlanguage\ttext\n", "more than one column 'text'"),
        (b"id\tp\xe9\n", "line 1: not valid UTF-8"),
        (HEADER + b"a\tx\n", "1 wrong_number_of_fields; the first, 'line 2': 2 fields, expected 5"),
        (HEADER + b"a\t\ty\tz\ten\n", "1 no_path; the first, 'a': row 0"),
        (HEADER, "is empty: no rows"),
    ],
)
def test_bad_manifests_are_refused(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "m.tsv"
    path.write_bytes(text)
    with pytest.raises(DataError, match=message):
        read_manifest(path)


def test_csv_is_refused_by_naming_what_is_read_and_how_to_get_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("m.csv").write_text('id,path,text,speaker,language\n7,a.wav,"one, two",s,en\n')
    for read in (read_manifest, read_texts, lambda path: find_recordings([path]),
                 lambda path: find_texts([path])):  # fmt: skip
        named = r"m\.csv.*expected.*\.parquet.*\.jsonl.*of CSV"
        with pytest.raises(DataError, match=named) as said:
            read("m.csv")
    command = str(said.value).partition("make Parquet: ")[2].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True)
    assert [(row.id, row.text) for row in read_manifest("m.parquet")] == [("7", "one, two")]
    Path("m.txt").write_text("x")
    with pytest.raises(DataError, match=r"m\.txt: expected a name ending in \.parquet, \.tsv"):
        read_manifest("m.txt")


def test_bad_rows_of_a_manifest_do_not_cost_the_good_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.tsv"
    lines = [b"a\tx\ty\tz\ten", b"b\tx", b"", b"\tx\ty\tz\ten", b"c\t\ty\tz\ten"]
    lines += [b"a\tw\ty\tz\ten", b"d\tx\tcaf\xe9\tz\ten", b"e\tx\ty\tz\ten"]
    path.write_bytes(HEADER + b"\n".join(lines) + b"\n")
    rejected: list[Rejected] = []
    assert [row.id for row in read_manifest(path, rejected)] == ["a", "e"]
    assert count_reasons(rejected) == {
        "duplicate_id": 1,
        "invalid_utf8": 1,
        "no_id": 1,
        "no_path": 1,
        "wrong_number_of_fields": 1,
    }
    assert capsys.readouterr().err == ""
    assert len(read_manifest(path)) == 2
    assert "5 of 7 rows are set aside" in capsys.readouterr().err
    long = path.with_name("durations.tsv")
    long.write_bytes(
        HEADER.strip() + b"\tduration_s\n" + b"a\tx\ty\tz\ten\t1.5\nb\tx\ty\tz\ten\tlong\n"
    )
    assert [row.duration_s for row in read_manifest(long, rejected)] == [1.5]
    assert rejected[-1].reason == "bad_duration"
