"""Folders, tars, cuts and manifests as one list of recordings."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from megatron_speech.data.manifest import ManifestRow, read_manifest, write_manifest
from megatron_speech.data.recording import Recording
from megatron_speech.data.recordings import find_recordings
from megatron_speech.data.tars import TarFile
from megatron_speech.errors import DataError
from megatron_speech.rejected import Rejected, count_reasons


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


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


def test_tars_hold_samples_of_neighbouring_members(tmp_path):
    wide = json.dumps({"text": "from json", "language": "de", "speaker": 7, "snr": 1}).encode()
    tar = TarFile(
        write_tar(
            tmp_path / "part-0001.tar",
            [
                ("__index__.json", b"{}"),
                ("./0001.flac", b"sound of one"),
                ("./0001.txt", b" hello \n"),
                ("a/0002.json", wide),
                ("a/0002.WAV", b"sound of two"),
                ("0003.txt", b"no sound"),
                ("0004.wav", b"x"),
                ("0004.flac", b"y"),
                ("0001.wav", b"again"),
                ("0005.wav", b"z"),
                ("0005.json", b"[1]"),
                ("0006.wav", b"z"),
                ("0006.txt", b"caf\xe9"),
                ("0007.wav", b"last"),
            ],
        ),
        "part-0001",
    )
    found, rejected = tar.read()
    assert [(r.id, r.text, r.language, r.speaker) for r in found] == [
        ("part-0001:0001", "hello", "", ""),
        ("part-0001:a/0002", "from json", "de", "7"),
        ("part-0001:0007", "", "", ""),
    ]
    content = tar.path.read_bytes()
    sounds = [content[r.tar_place[0] : sum(r.tar_place)] for r in found if r.tar_place]
    assert sounds == [b"sound of one", b"sound of two", b"last"]
    assert count_reasons(rejected) == {
        "bad_text": 2,
        "duplicate_id": 1,
        "no_audio": 1,
        "several_recordings": 1,
    }


def test_damaged_tars_cost_what_is_damaged(tmp_path):
    whole = write_tar(tmp_path / "a.tar", [(f"{n}.wav", b"s" * 5000) for n in range(4)])
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:13_000])
    found, rejected = TarFile(tmp_path / "cut.tar", "cut").read()
    assert [r.id for r in found] == ["cut:0", "cut:1", "cut:2"]  # the third is for its reader
    assert [r.reason for r in rejected] == ["damaged_tar"]
    (tmp_path / "b.tar").write_bytes(gzip.compress(whole.read_bytes()))
    found, rejected = TarFile(tmp_path / "b.tar", "b").read()
    assert not found
    assert [(r.id, r.reason) for r in rejected] == [("b", "unreadable_tar")]


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
        ("'caf\\udce9'", "invalid_utf8"),
        ("s1/2", "duplicate_id"),
    ]
    assert [tar.name for tar in found.tars] == ["s1/t"]
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
