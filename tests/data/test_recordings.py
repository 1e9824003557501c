"""Folders, tars, cuts and manifests as one list of recordings."""

import gzip
import json
import os
from pathlib import Path

import pytest

from megatron_speech.data.manifest import ManifestRow, read_manifest, write_manifest
from megatron_speech.data.recording import Recording
from megatron_speech.data.recordings import find_recordings
from megatron_speech.errors import DataError
from megatron_speech.io.rejected import Rejected, count_reasons
from tests.data.test_tars import write_tar


def write_cuts(path: Path, cuts: list[dict]) -> Path:
    with gzip.open(path, "wt") as stream:
        stream.writelines(json.dumps(cut) + "\n" for cut in cuts)
    return path


def cut(name: str, **changes) -> dict:
    source = {"type": "file", "channels": [0, 1], "source": "audio/long.flac"}
    recording = {"id": "r", "sources": [source], "sampling_rate": 16000, "duration": 60.0}
    says = {"id": "s", "recording_id": "r", "text": "hello", "language": "en", "speaker": "a"}
    supervisions = [says | {"start": 1.0}, says | {"start": 0.0, "text": "oh", "speaker": "b"}]
    return {
        "id": name,
        "start": 2.5,
        "duration": 4.0,
        "channel": 1,
        "supervisions": supervisions,
        "recording": recording,
        "type": "MonoCut",
    } | changes


def test_an_odd_object_at_the_top_costs_itself_alone(tmp_path):
    found = find_recordings([write_cuts(tmp_path / "cuts.jsonl.gz", [{}, {"id": 1}, cut("one")])])
    assert [item.id for item in found.listed] == ["one"]
    assert len(found.rejected) == 2


def test_cuts_say_where_their_audio_is(tmp_path):
    other = {"type": "url", "channels": [0], "source": "https://example.org/a.wav"}
    transformed = cut("x")["recording"] | {"transforms": [{"name": "Speed"}]}
    cuts = [
        cut("one"),
        cut("two", type="MultiCut", channel=[0, 1], supervisions=[]),
        cut("mixed", type="MixedCut"),
        cut("far", recording={"id": "r", "sources": [other]}, channel=0),
        cut("faster", recording=transformed),
        cut("empty", duration=0),
        cut("features", recording=None),
        cut("third-channel", channel=2),
        cut("one"),
        {"id": "torn", "type": "MonoCut"},
        cut("torn-too", recording="r"),
        cut("half \ud800"),
    ]
    found = find_recordings([write_cuts(tmp_path / "cuts.jsonl.gz", cuts)])
    path = str(tmp_path / "audio/long.flac")
    place = {"path": path, "duration_s": 4.0, "start_s": 2.5, "length_s": 4.0}
    assert list(found.listed) == [
        Recording(id="one", text="oh hello", language="en", channels=(1,), **place),
        Recording(id="two", **place),
    ]
    assert count_reasons(found.rejected) == {
        "bad_duration": 1,
        "duplicate_id": 1,
        "invalid_cut": 1,
        "invalid_utf8": 1,
        "no_audio": 2,
        "unsupported_cut": 2,
        "unsupported_source": 2,
    }
    rooted = find_recordings([tmp_path / "cuts.jsonl.gz"], audio_root=Path("/data"))
    assert rooted.listed[0].path == "/data/audio/long.flac"


def test_folders_count_what_they_leave_out(tmp_path, monkeypatch):
    folder = tmp_path / "audio"
    (folder / "sub").mkdir(parents=True)
    (folder / "named.wav").mkdir()
    for name in ("a.wav", "b.WAV", "c.wav", "d.wav", "e.wav", "sub/f.wav", "named.wav/g.wav"):
        (folder / name).write_bytes(b"x")
    (folder / "b.TXT").write_bytes(b"\xef\xbb\xbfin capitals\n")
    (folder / "c.txt").symlink_to("gone.txt")
    os.mkfifo(folder / "d.txt")
    (folder / "e.txt").write_bytes(b"one")
    (folder / "e.Txt").write_bytes(b"other")
    (folder / "lost.wav").symlink_to("gone.wav")
    (folder / "lost.tar").symlink_to("gone.tar")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "corpus.trans.txt").write_text("a HELLO\n")
    os.mkfifo(folder / "pipe.tar")
    walk = os.walk

    def refusing(top, onerror):
        onerror(PermissionError(13, "Permission denied", str(folder / "closed")))
        yield from walk(top)

    monkeypatch.setattr(os, "walk", refusing)
    found = find_recordings([folder])
    texts = {item.id: item.text for item in found.listed}
    assert texts == {"a": "HELLO", "b": "in capitals", "lost": "", "named.wav/g": "", "sub/f": ""}
    assert {item.id: item.reason for item in found.rejected} == {
        "c": "bad_text",
        "closed": "unreadable_folder",
        "d": "bad_text",
        "e": "bad_text",
        "linked": "linked_folder",
        "lost.tar": "unreadable_tar",
        "pipe.tar": "unreadable_tar",
    }
    assert not found.archives


def test_folders_hold_audio_and_tars(tmp_path):
    for name in ("s1/2.wav", "s1/1.FLAC", "b.mp3", "song.m4a", ".hidden/x.wav", ".x.wav", "n.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "s1/1.txt").write_text("what 1 says\n")
    (tmp_path / "s1/2.flac").write_bytes(b"x")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"x")
    write_tar(tmp_path / "s1/t.tar", [("k.wav", b"x")])
    found = find_recordings([tmp_path])
    assert [(r.id, r.text) for r in found.listed] == [
        ("s1/1", "what 1 says"),
        ("s1/2", ""),
        ("song", ""),
    ]
    assert [(r.id, r.reason) for r in found.rejected] == [
        ("b", "bad_text"),
        ("caf\\udce9", "invalid_utf8"),
        ("s1/2", "duplicate_id"),
    ]
    assert [tar.name for tar in found.archives] == ["s1/t"]
    assert find_recordings([tmp_path]).fingerprint == found.fingerprint
    (tmp_path / "song.m4a").write_bytes(b"xy")
    assert find_recordings([tmp_path]).fingerprint != found.fingerprint


def test_manifests_of_json_lines_and_several_inputs(tmp_path):
    lines = [
        {"id": 1, "path": "a.wav", "text": "t", "duration_s": 2},
        {"path": "b.wav"},
        {"id": "c"},
        {"id": "d", "path": "d.wav", "duration_s": -1},
        {"id": "e", "path": "e.wav", "text": "\ud800"},
        {"id": "f", "path": "f.wav", "duration_s": float("nan")},
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rejected: list[Rejected] = []
    assert read_manifest(path, rejected) == [
        ManifestRow(id="1", path=tmp_path / "a.wav", text="t", duration_s=2.0)
    ]
    reasons = {"bad_duration": 2, "invalid_utf8": 1, "no_id": 1, "no_such_field": 1}
    assert count_reasons(rejected) == reasons
    write_manifest(
        tmp_path / "n.parquet", [ManifestRow(id=n, path=Path("x.wav"), text="") for n in "12"]
    )
    both = find_recordings([path, tmp_path / "n.parquet"])
    assert [r.id for r in both.listed] == ["1", "2"]
    assert count_reasons(both.rejected) == reasons | {"duplicate_id": 1}


def test_inputs_that_cannot_be_used_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    (tmp_path / "a.jsonl").write_text("\n")
    write_cuts(tmp_path / "bad.jsonl.gz", [cut("x", type="MixedCut")])
    same = [write_tar(tmp_path / n / "0.tar", [("k.wav", b"x")]) for n in ("one", "two")]
    for inputs, message in (
        ([tmp_path / "gone.parquet"], "does not exist"),
        ([tmp_path / "gone.tar"], "does not exist"),
        ([tmp_path / "empty"], "neither .tar files nor audio"),
        ([tmp_path / "a.tar.gz"], "not compressed"),
        ([tmp_path / "a.jsonl"], "empty"),
        ([tmp_path / "bad.jsonl.gz"], "no recordings found"),
        (same, "same name"),
    ):
        with pytest.raises(DataError, match=message):
            find_recordings(inputs)


BAD_ROWS = [
    b'{"id": "n", "path": "a.wav", "snr": ' + b"7" * 5000 + b"}",
    b'{"id": ["list"], "path": "a.wav"}',
    b'{"id": "p", "path": {"bytes": "x"}}',
    b'{"id": "t", "path": "a.wav", "text": ["a", "list"]}',
    b'{"id": "y", "path": "a.wav", "text": true}',
    b'{"id": "d", "path": "a.wav", "duration_s": 1e400}',
    b'{"id": "s\\ud800", "path": "a.wav"}',
    b'{"id": "u", "path": "\\udfff.wav"}',
    b"[" * 50_000,
]


def test_what_one_row_holds_ends_no_list(tmp_path):
    path = tmp_path / "M.JSONL"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"id": "a", "path": "a.wav"}\n' + b"\n".join(BAD_ROWS))
    found = find_recordings([path])
    assert [item.id for item in found.listed] == ["a"]
    assert len(found.rejected) == len(BAD_ROWS)
    assert count_reasons(found.rejected) == {
        "bad_duration": 1,
        "invalid_json": 2,
        "invalid_row": 4,
        "invalid_utf8": 2,
    }
    good = cut("good", channel=[0, 1], type="MultiCut")
    cuts = [
        good,
        cut("far", channel=float("inf")),
        cut("no-text", supervisions=[{"text": ["a"]}]),
        cut("later", start=1e300),
        cut("list") | {"id": [1]},
        cut("no-source", recording={"sources": []}),
        cut("half", supervisions=[{"text": "\ud800"}]),
    ]
    found = find_recordings([write_cuts(tmp_path / "c.jsonl.gz", cuts)])
    assert [item.id for item in found.listed] == ["good", "later"]
    assert count_reasons(found.rejected) == {
        "invalid_cut": 3,
        "invalid_utf8": 1,
        "unsupported_source": 1,
    }


def test_tables_of_texts_begin_behind_a_byte_order_mark(tmp_path):
    header = "id\tpath\ttext\tspeaker\tlanguage\r\n"
    long = "x" * 200_000
    rows = f"a\ta.wav\tone\t\ten\r\nb\tb.wav\tto\rrn\t\ten\nc\tc.wav\t{long}\t\ten\n"
    (tmp_path / "M.TSV").write_bytes(b"\xef\xbb\xbf" + (header + rows).encode())
    found = find_recordings([tmp_path / "M.TSV"])
    assert [item.text for item in found.listed] == ["one", "to\rrn", long]
