"""Tars as lists of recordings: samples of neighbouring members, texts, damage."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from megatron_speech.data.tars import TarFile
from megatron_speech.io.rejected import count_reasons


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


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


def of_tar(path: Path, members: list[tuple[str, bytes]]) -> tuple[dict[str, str], dict[str, str]]:
    """Texts of the recordings in a new tar, and reasons of what was set aside, by key."""
    found, rejected = TarFile(write_tar(path, members), "t").read()
    texts = {item.id.removeprefix("t:"): item.text for item in found}
    return texts, {item.id.removeprefix("t:"): item.reason for item in rejected}


def test_texts_in_tars_are_found_or_missed_aloud(tmp_path):
    """Keys with dots, names in capitals, byte-order marks; what belongs to nobody is counted."""
    members = [
        ("s1_0.25_1.5.wav", b"x"),
        ("s1_0.25_1.5.txt", b"dots"),
        ("s2.0.wav", b"x"),
        ("s2.0.txt", b"first"),
        ("s2.5.wav", b"x"),
        ("s2.5.json", b'\xef\xbb\xbf{"text": "second"}'),
        ("s3.WAV", b"x"),
        ("s3.TXT", "\ufeffin capitals\r\n".encode()),
        ("s4.seg.flac", b"x"),
        ("s4.txt", b"of the key"),
        ("s5.wav", b"x"),
        ("s5.de.txt", b"whose?"),
        ("s6.wav", b"x"),
        ("s6.txt", b"one"),
        ("s6.TXT", b"other"),
        ("s7.left.wav", b"x"),
        ("s7.right.wav", b"x"),
        ("s7.txt", b"of both"),
        ("s8.wav", b"x"),
        ("s8.json", b'{"text": ["a", "list"]}'),
        ("s9.wav", b"x"),
        ("s9.json", b'{"text": "a", "snr": ' + b"9" * 5000 + b"}"),
        ("s10.wav", b"x"),
        ("s10.txt", "\ufeffutf-16".encode("utf-16")),
        ("s1_0.75.wav", b"x"),
    ]
    texts, rejected = of_tar(tmp_path / "t.tar", members)
    assert texts == {
        "s1_0.25_1.5": "dots",
        "s2.0": "first",
        "s2.5": "second",
        "s3": "in capitals",
        "s4.seg": "of the key",
        "s1_0.75": "",
    }
    assert rejected == dict.fromkeys(("s5", "s6", "s8", "s9", "s10"), "bad_text") | {
        "s7": "several_recordings"
    }


def test_odd_members_of_tars_cost_no_other(tmp_path):
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, size: int = 1, **changes) -> None:
            member = tarfile.TarInfo(name)
            member.size = size
            for key, value in changes.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(b"x" * size))

        add("a.wav")
        add("folder.wav", 0, type=tarfile.DIRTYPE)
        add("b.wav", 0, type=tarfile.SYMTYPE, linkname="a.wav")
        add("c.wav")
        add("c.txt", 0, type=tarfile.LNKTYPE, linkname="gone.txt")
        add("d\udcff.wav")
        add("e.wav", pax_headers={"mtime": "soon", "GNU.sparse.major": "x"})
        add("f" * 300 + ".wav")
    found, rejected = TarFile(path, "t").read()
    assert [item.id for item in found] == ["t:a", "t:e", "t:" + "f" * 300]
    assert [(item.id, item.reason) for item in rejected] == [
        ("t:b", "not_a_file"),
        ("t:c", "bad_text"),
        ("t:d\\udcff", "invalid_utf8"),
    ]


@pytest.mark.parametrize("field", [(124, b"\xff" * 11 + b"\x00"), (124, b"\x80" + b"\x7f" * 11)])
def test_sizes_of_members_that_cannot_be_end_the_tar_and_not_the_job(tmp_path, field):
    """Below zero (tarfile would go back and never end) and beyond all files."""
    path = write_tar(tmp_path / "t.tar", [("a.wav", b"x"), ("b.wav", b"x")])
    content = bytearray(path.read_bytes())
    at = 1024 + field[0]
    content[at : at + 12] = field[1]
    header = content[1024:1536]
    header[148:156] = b" " * 8
    content[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(header)
    path.write_bytes(content)
    found, rejected = TarFile(path, "t").read()
    assert [item.id for item in found][:1] == ["t:a"]
    assert {item.reason for item in rejected} <= {"damaged_tar"}
    assert len(found) + len(rejected) >= 2
