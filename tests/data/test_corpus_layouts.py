"""Corpora in the layouts in which they are published, read as they lie."""

import io
import json
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from megatron_speech.data.reading import stream_recording
from megatron_speech.data.recording import Recording
from megatron_speech.data.recordings import RecordingRow, find_recordings, read_rows
from megatron_speech.errors import AudioError, DataError
from megatron_speech.io.rejected import count_reasons


def sound(seconds: float = 0.5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(16_000 * seconds))


def write_sound(path: Path, seconds: float = 0.5, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound(seconds, seed), 16_000)
    return path


def as_flac(audio: np.ndarray) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, audio, 16_000, format="FLAC")
    return stream.getvalue()


def said(folder: Path) -> list[tuple[str, str, str, str]]:
    return [(r.id, r.text, r.speaker, r.language) for r in find_recordings([folder]).listed]


def test_librispeech(tmp_path):
    chapter = tmp_path / "dev-clean" / "84" / "121123"
    for number in range(3):
        write_sound(chapter / f"84-121123-{number:04}.flac")
    lines = (
        b"84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT IN LESS\n84-121123-0009 GONE\n\xff x\n"
    )
    (chapter / "84-121123.trans.txt").write_bytes(lines)
    found = find_recordings([tmp_path])
    place = "dev-clean/84/121123/84-121123-000"
    assert [(r.id, r.text, r.speaker) for r in found.listed] == [
        (place + "0", "GO DO YOU HEAR", "84"),
        (place + "1", "BUT IN LESS", "84"),
        (place + "2", "", ""),
    ]
    assert count_reasons(found.rejected) == {"invalid_utf8": 1, "no_audio": 1}


def test_ljspeech(tmp_path):
    write_sound(tmp_path / "wavs/LJ001-0001.wav")
    write_sound(tmp_path / "wavs/LJ001-0002.flac")
    lines = (
        'LJ001-0001|In 1455.|In fourteen fifty-five.\nLJ001-0002|Printing, "then"|\nno bars\n|x|y\n'
    )
    (tmp_path / "metadata.csv").write_bytes(lines.encode() + b"LJ001-0003|caf\xe9|x\n")
    found = find_recordings([tmp_path])
    assert [(r.id, r.text, Path(r.path).name) for r in found.listed] == [
        ("LJ001-0001", "In fourteen fifty-five.", "LJ001-0001.wav"),
        ("LJ001-0002", 'Printing, "then"', "LJ001-0002.flac"),
    ]
    assert count_reasons(found.rejected) == {"invalid_utf8": 1, "wrong_number_of_fields": 2}


COMMON_VOICE = "client_id\tpath\tsentence_id\tsentence\tup_votes\tlocale\n"


def test_common_voice_leaves_the_held_out_lists_alone(tmp_path):
    for locale in ("fr", "es"):
        folder = tmp_path / "cv-corpus-21.0" / locale
        for name in ("1.mp3", "2.mp3", "3.mp3"):
            (folder / "clips").mkdir(parents=True, exist_ok=True)
            (folder / "clips" / name).write_bytes(b"x")
        lists = {"validated": "123", "train": "12", "test": "3"}
        for name, ids in lists.items():
            rows = [f"who{n}\t{n}.mp3\ts\tSays {n}.\t2\t{locale}\n" for n in ids]
            (folder / f"{name}.tsv").write_text(COMMON_VOICE + "".join(rows) + "too\tfew\n")
    found = find_recordings([tmp_path])
    start = "cv-corpus-21.0/"
    expected = [(f"{start}{c}/{n}", f"Says {n}.", f"who{n}", c) for c in ("es", "fr") for n in "12"]
    assert said(tmp_path) == expected
    assert count_reasons(found.rejected) == {"wrong_number_of_fields": 2}
    assert found.rejected[0].id.startswith("cv-corpus-21.0/es/")
    test = find_recordings([tmp_path / "cv-corpus-21.0/es/test.tsv"])
    assert [(r.id, Path(r.path).exists()) for r in test.listed] == [("3", True)]


def test_nemo_manifests(tmp_path):
    audio = write_sound(tmp_path / "audio/talk.wav", 3.0)
    rows = [
        {"audio_filepath": "audio/talk.wav", "duration": 3.0, "text": "all", "lang": "de"},
        {"audio_filepath": str(audio), "duration": 1.0, "offset": 0.5, "text": "a part"},
        {"audio_filepath": "audio/talk.wav", "duration": "long", "text": "x"},
        {"audio_filepath": "", "duration": 1},
        {"duration": 1.0, "text": "no sound"},
        {"audio_filepath": "audio/talk.wav", "duration": 1.0, "offset": 0.5},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "train_manifest.json").write_text(lines + "{torn\n")
    for named in (tmp_path, tmp_path / "train_manifest.json"):
        found = find_recordings([named])
        assert list(found.listed) == [
            Recording(id="audio/talk", path=str(audio), text="all", language="de", duration_s=3.0),
            Recording(
                id="audio/talk@0.500",
                path=str(audio),
                text="a part",
                duration_s=1.0,
                start_s=0.5,
                length_s=1.0,
            ),
        ]
        reasons = {"bad_duration": 1, "duplicate_id": 1, "invalid_json": 1}
        assert count_reasons(found.rejected) == reasons | {"no_path": 1, "no_such_field": 1}
    (part,) = [r for r in find_recordings([tmp_path]).listed if r.start_s]
    heard = np.concatenate(list(stream_recording(part)))
    np.testing.assert_allclose(heard, sound(3.0)[8_000:24_000], atol=1e-4)


def kaldi(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / {"wav_scp": "wav.scp"}.get(name, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_a_folder_with_a_manifest_is_that_manifest(tmp_path):
    write_sound(tmp_path / "set/audio/a.wav")
    write_sound(tmp_path / "set/audio/unlisted.wav")
    row = {"id": "a", "path": "audio/a.wav", "text": "said", "license": "CC0", "consent": "yes"}
    (tmp_path / "set/manifest.jsonl").write_text(json.dumps(row) + "\n")
    (recording,) = find_recordings([tmp_path]).listed
    assert (recording.id, recording.text, recording.license) == ("set/a", "said", "CC0")
    assert recording.consent == "yes"


def test_a_folder_in_no_layout_says_what_was_expected(tmp_path):
    (tmp_path / "notes.csv").write_text("x")
    (tmp_path / "clips").mkdir()
    pq.write_table(pa.table({"id": ["a"], "text": ["no sound"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        find_recordings([tmp_path])
    for name in (
        "Kaldi: `wav.scp`",
        "MLS",
        "LJSpeech",
        "Common Voice",
        "NeMo",
        "LibriSpeech",
        "Hugging",
    ):
        assert name in str(caught.value)


def write_dataset(path: Path, rows: int = 40, row_group: int = 16) -> list[np.ndarray]:
    """As `datasets` writes it, with rows that cannot be used."""
    sounds = [sound(0.2 + 0.01 * n, n) for n in range(rows)]
    audio = [{"bytes": as_flac(each), "path": f"clip-{n}.flac"} for n, each in enumerate(sounds)]
    audio[3] = None
    audio[5] = {"bytes": b"no sound", "path": "clip-5.flac"}
    audio[7] = {"bytes": None, "path": "beside.flac"}
    audio[9] = {"bytes": None, "path": "gone.flac"}
    audio[11]["path"] = "clip-10.flac"
    texts = [f"says {n}".encode() for n in range(rows)]
    texts[13] = b"caf\xe9"
    raw = pa.array(texts, pa.binary())
    strings = pa.Array.from_buffers(pa.string(), rows, raw.buffers())
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "audio": pa.array(audio, kind),
            "sentence": strings,
            "speaker_id": pa.array(range(rows), pa.int64()),
            "locale": ["sw"] * rows,
            "up_votes": [2] * rows,
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group)
    return sounds


def heard(recordings: list[Recording]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    good, bad = {}, {}
    for recording in recordings:
        try:
            good[recording.id] = np.concatenate(list(stream_recording(recording)))
        except AudioError as error:
            bad[recording.id] = error.reason
    return good, bad


@pytest.mark.parametrize("row_group", [1000, 16, 1])
def test_parquet_with_sound_is_read_where_it_is(tmp_path, row_group):
    sounds = write_dataset(tmp_path / "data/train-00000-of-00001.parquet", row_group=row_group)
    write_sound(tmp_path / "data/beside.flac", 0.3, 99)
    found = find_recordings([tmp_path / "data/train-00000-of-00001.parquet"])
    (archive,) = found.archives
    recordings, rejected = archive.read()
    assert count_reasons(rejected) == {"duplicate_id": 1, "invalid_utf8": 1}
    name = "train-00000-of-00001:clip-"
    first = recordings[0]
    assert (first.id, first.text, first.speaker, first.language) == (
        f"{name}0",
        "says 0",
        "0",
        "sw",
    )
    for order in (recordings, recordings[::-1], recordings[1::2] + recordings[::2]):
        good, bad = heard(order)
        assert sorted(bad.values()) == ["missing", "no_audio", "unreadable"]
        assert len(good) == 40 - 2 - 3
        for n in (0, 1, 17, 39):
            np.testing.assert_allclose(good[f"{name}{n}"], sounds[n], atol=1e-4)
        np.testing.assert_allclose(good["train-00000-of-00001:beside"], sound(0.3, 99), atol=1e-4)


def test_folders_and_urls_of_parquet(tmp_path):
    sounds = write_dataset(tmp_path / "hub/data/train.parquet")
    memory = fsspec.filesystem("memory")
    memory.pipe("/hub/data/train.parquet", (tmp_path / "hub/data/train.parquet").read_bytes())
    memory.pipe("/hub/data/README.md", b"x")
    try:
        local = find_recordings([tmp_path / "hub"]).archives[0].read()[0]
        for url in ("memory://hub/data", "memory://hub/data/*.parquet"):
            found = find_recordings([url])
            far, _ = found.archives[0].read()
            assert len(far) == len(local)
            good, _ = heard(far[:3])
            np.testing.assert_allclose(good["train:clip-2"], sounds[2], atol=1e-4)
        assert local[2].id == "data/train:clip-2"
        with pytest.raises(DataError, match=r"names no \.parquet files"):
            find_recordings(["memory://hub/data/README.md"])
    finally:
        memory.rm("/hub", recursive=True)


def test_training_rows_of_any_layout(tmp_path):
    write_dataset(tmp_path / "hub/train.parquet")
    audio = write_sound(tmp_path / "call.wav", 4.0)
    folder = kaldi(tmp_path / "k", wav_scp=f"c {audio}\n", segments="c-a c 1 2\n", text="c-a hi\n")
    rows = read_rows(tmp_path / "hub")
    assert (rows[0].id, rows[0].text) == ("train:clip-0", "says 0")
    (part,) = read_rows(folder)
    assert isinstance(part, RecordingRow)
    assert (part.duration_s, part.recording.start_s) == (1.0, 1.0)
    write_sound(tmp_path / "plain/a.wav")
    (row,) = read_rows(tmp_path / "plain")
    assert not isinstance(row, RecordingRow)
