"""Multilingual LibriSpeech as it is unpacked: two lists and a tree of sound for each part."""

from pathlib import Path

import pytest

from megatron_speech.data.recording import Recording
from megatron_speech.data.recordings import find_recordings
from tests.data.test_corpus_layouts import write_sound

ADDRESS = "http://www.archive.org/download/book/chapter_64kb.mp3"
IDS = [f"10148_10119_{n:06}" for n in range(4)]


def write_part(folder: Path, texts: list[str], places: list[str]) -> Path:
    """A part with a line of both lists, and with sound, for each id that a list names."""
    for name in {line.split("\t")[0] for line in (*texts, *places)}:
        write_sound(folder / "audio" / "/".join(name.split("_")[:2]) / f"{name}.flac")
    (folder / "transcripts.txt").write_text("".join(f"{line}\n" for line in texts))
    (folder / "segments.txt").write_text("".join(f"{line}\n" for line in places))
    return folder


def test_text_speaker_and_length_of_every_part(tmp_path):
    corpus = tmp_path / "mls_german"
    train = write_part(
        corpus / "train",
        [f"{IDS[0]}\tich bin schön", f"{IDS[1]}\tnoch  eins"],
        [f"{IDS[0]}\t{ADDRESS}\t401.5\t417.75", f"{IDS[2]}\t{ADDRESS}\t0\t2.5"],
    )
    write_part(corpus / "dev", ["7_8_000000\tkurz"], [f"7_8_000000\t{ADDRESS}\t1\t2"])
    (corpus / "metainfo.txt").write_text("SPEAKER | GENDER | PARTITION\n")
    handles = train / "limited_supervision/9hr/handles.txt"
    handles.parent.mkdir(parents=True)
    handles.write_text(f"{IDS[0]}\n")
    found = find_recordings([train])
    place = train / "audio/10148/10119"
    assert list(found.listed) == [
        Recording(id=name, path=f"{place / name}.flac", text=text, speaker="10148", duration_s=s)
        for name, text, s in zip(
            IDS[:3], ("ich bin schön", "noch  eins", ""), (16.25, 0, 2.5), strict=True
        )
    ]
    assert not found.rejected
    assert [r.id for r in find_recordings([tmp_path]).listed] == [
        "mls_german/dev/7_8_000000",
        *(f"mls_german/train/{name}" for name in IDS[:3]),
    ]


def test_a_bad_line_costs_itself_alone(tmp_path):
    place = f"{ADDRESS}\t0\t2"
    part = write_part(
        tmp_path,
        [*(f"{name}\ttext" for name in IDS), f"{IDS[0]}\tagain", "7-8\tno id"],
        [f"{IDS[0]}\t{place}", f"{IDS[1]}\t{ADDRESS}\t5\tsoon", f"{IDS[2]}\t{ADDRESS}\t3\t1"],
    )
    with open(part / "transcripts.txt", "ab") as stream:
        stream.write(b"7_8_000000\tcaf\xe9\n")
    with open(part / "segments.txt", "a") as stream:
        stream.write(f"{IDS[0]}\t{place}\n")
    found = find_recordings([part])
    assert [r.id for r in found.listed] == [IDS[0], IDS[3]]
    assert sorted((item.id, item.reason) for item in found.rejected) == [
        (IDS[0], "duplicate_id"),
        (IDS[0], "duplicate_id"),
        (IDS[1], "bad_duration"),
        (IDS[2], "bad_duration"),
        ("7-8", "invalid_row"),
        ("transcripts.txt line 7", "invalid_utf8"),
    ]


@pytest.mark.parametrize("suffix", [".opus", ".wav"])
def test_sound_has_the_suffix_that_it_has(tmp_path, suffix):
    part = write_part(tmp_path, [f"{IDS[0]}\ttext"], [f"{IDS[0]}\t{ADDRESS}\t0\t2"])
    for path in sorted(part.rglob("*.flac")):
        path.rename(path.with_suffix(suffix))
    (recording,) = find_recordings([part]).listed
    assert Path(recording.path).is_file()
    assert Path(recording.path).suffix == suffix


def test_a_part_is_known_by_both_lists(tmp_path):
    part = write_part(tmp_path, [f"{IDS[0]}\ttext"], [f"{IDS[0]}\t{ADDRESS}\t0\t2"])
    prints = [find_recordings([part]).fingerprint]
    for name in ("segments.txt", "transcripts.txt"):
        path = part / name
        path.write_text(path.read_text() + "\n")
        prints.append(find_recordings([part]).fingerprint)
    assert len(set(prints)) == 3
