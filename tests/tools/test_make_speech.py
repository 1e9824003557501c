"""From a text list to recordings: the same whatever the workers, resumable, errors that help."""

import errno
import gzip
import hashlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_speech import audio
from megatron_speech.data.manifest import read_manifest, read_texts
from megatron_speech.errors import ConfigError, DataError
from megatron_speech.text_to_speech import espeak, speech_source
from tools import make_speech

SENTENCES = {
    "story-1/000": "Anna went to the park.",
    "story-1/001": "She took an umbrella.",
    "plain": '"Where is the key?" asked Ben.',
    "a b/ü": "It rained all day.",
}


def write_list(path: Path, texts: dict[str, str]) -> Path:
    pq.write_table(pa.table({"id": list(texts), "text": list(texts.values())}), path)
    return path


def make(texts: Path, output: Path, *flags: str) -> speech_source.SpeechSummary:
    return make_speech.main(["--texts", str(texts), "--output-dir", str(output), *flags])


def audio_digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.flac"))
    }


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech in blocks of two, with texts that cannot be spoken among them."""
    folder = tmp_path_factory.mktemp("speech")
    texts = {**SENTENCES, "none": "", "dots": "... !"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech_source, "BLOCK_UTTERANCES", 2)
        make(write_list(folder / "texts.parquet", texts), folder / "out", "--workers", "2")
    return folder


def test_recordings_and_manifest(spoken: Path) -> None:
    rows = read_manifest(spoken / "out" / "manifest.parquet")
    assert {row.id: row.text for row in rows} == SENTENCES
    for row in rows:
        waveform = audio.read_audio(row.path)
        assert abs(len(waveform) / audio.SAMPLE_RATE_HZ - row.duration_s) < 1e-3
        assert 0.5 < row.duration_s < 4
        assert row.language == "en"
        assert row.speaker in {voice.name for voice in espeak.TRAINING_VOICES}
        edges = np.abs(np.concatenate([waveform[:800], waveform[-800:]])).max()
        assert edges > espeak.TRIM_PEAK / 2  # trimmed: sound within 50 ms of the ends
    by_id = {row.id: row for row in rows}
    assert by_id["story-1/000"].speaker == by_id["story-1/001"].speaker


def test_what_cannot_be_spoken_is_set_aside(spoken: Path) -> None:
    lines = (spoken / "out" / "rejected.jsonl").read_text().splitlines()
    rejected = {record["id"]: record for record in map(json.loads, lines)}
    assert set(rejected) == {"none", "dots"}
    assert {record["reason"] for record in rejected.values()} == {"nothing_to_speak"}


def test_workers_and_interruptions_change_nothing(
    spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_source, "BLOCK_UTTERANCES", 2)
    texts, output = spoken / "texts.parquet", tmp_path / "out"
    make(texts, output, "--workers", "1")
    expected = audio_digests(spoken / "out")
    assert audio_digests(output) == expected
    # As after a kill: one block gone, one file of another cut short, no manifest.
    for path in (output / "audio" / "00000").iterdir():
        path.unlink()
    damaged = next((output / "audio" / "00001").glob("*.flac"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    (output / "manifest.parquet").unlink()
    make(texts, output, "--workers", "1")
    assert audio_digests(output) == expected
    assert make(texts, output).reused == len(SENTENCES)
    assert (output / "manifest.parquet").read_bytes() == (
        spoken / "out" / "manifest.parquet"
    ).read_bytes()


class Pressed(list):
    """Takes sound, and Ctrl-C at the first of it, inside of espeak-ng's call."""

    def append(self, samples: np.ndarray) -> None:
        if not self:
            os.kill(os.getpid(), signal.SIGINT)
        super().append(samples)


def test_ctrl_c_while_espeak_hands_over_sound_is_not_lost(monkeypatch) -> None:
    """It once was, with that sound; the block went on and was kept."""
    delivery = espeak.Delivery(voice="en-us", pitch=50, words_per_minute=150)
    text = "Some words that take more than one buffer of sound to say."
    taken = Pressed()
    monkeypatch.setattr(espeak.engine(), "_samples", taken)
    with pytest.raises(KeyboardInterrupt):
        espeak.engine().speak(text, delivery)
    assert len(taken) > 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_full_disk_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    folder = tmp_path / "audio" / "00000"
    texts, voices = tuple(SENTENCES.items()), espeak.TRAINING_VOICES
    block = speech_source.Block(folder=folder, texts=texts, seed=1, voices=voices)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            speech_source.speak_block(block)
    assert list(folder.parent.iterdir()) == []
    speech_source.speak_block(block)
    assert speech_source.finished_block(block) is not None


def test_a_folder_of_other_speech_is_refused(spoken: Path, tmp_path: Path) -> None:
    other = write_list(tmp_path / "other.parquet", {"x": "Another text."})
    with pytest.raises(ConfigError, match="begun with other settings"):
        make(other, spoken / "out")


@pytest.mark.parametrize(
    ("language", "text", "code"),
    [("es", "Ana fue al parque.", "es"), ("fr", "Elle a pris un parapluie.", "fr"),
     ("es-419", "Ana fue al parque.", "es"), ("zh", "今天天气很好。", "zh")],
)  # fmt: skip
def test_other_languages_have_their_own_voices(language, text, code, tmp_path) -> None:
    texts = write_list(tmp_path / "texts.parquet", {f"u{n}": text for n in range(6)})
    make(texts, tmp_path / "out", "--language", language, "--workers", "1")
    rows = read_manifest(tmp_path / "out" / "manifest.parquet")
    assert {row.language for row in rows} == {code}
    assert len({row.speaker for row in rows}) > 1
    assert all(0.5 < row.duration_s < 4 for row in rows)
    kinds = ("train", "held-out", "all", "many", "narrator")
    names = {kind: {voice.name for voice in espeak.voices_of(language, kind)} for kind in kinds}
    assert names["held-out"].isdisjoint(names["train"] | names["many"])
    assert names["all"] == names["train"] | names["held-out"]


def test_a_language_without_a_voice_is_refused(spoken: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'xx'; espeak-ng speaks .*, es, .*, fr, .*and zh"):
        make(spoken / "texts.parquet", tmp_path / "out", "--language", "xx")
    assert not (tmp_path / "out").exists()
    assert {espeak.language_of(name) for name in ("en", "en-us+f3", "en-gb-x-rp+m1")} == {"en"}


def test_delivery_depends_on_seed_and_document_only() -> None:
    voices = espeak.TRAINING_VOICES
    assert len(voices) >= 8
    held_out = {v.name for v in espeak.HELD_OUT_VOICES}
    assert not held_out & {v.name for v in (*voices, *espeak.MANY_VOICES)}
    assert len({v.name for v in espeak.MANY_VOICES}) == 60
    deliveries = [espeak.choose_delivery(f"u{i}", 1, voices) for i in range(600)]
    assert deliveries[5] == espeak.choose_delivery("u5", 1, voices)
    assert espeak.choose_delivery("d/000", 1, voices) == espeak.choose_delivery("d/017", 1, voices)
    assert deliveries != [espeak.choose_delivery(f"u{i}", 2, voices) for i in range(600)]
    counts = [sum(d.voice == v.name for d in deliveries) for v in voices]
    assert min(counts) > 30
    slowest, fastest = voices[0].words_per_minute
    assert {d.words_per_minute for d in deliveries} == set(range(slowest, fastest + 1))
    assert len({d.pitch for d in deliveries}) > 30
    with pytest.raises(ConfigError, match="no voices"):
        espeak.choose_delivery("u", 1, ())


def test_every_voice_speaks_and_an_unknown_one_is_refused() -> None:
    lengths = {}
    for voice in (*espeak.TRAINING_VOICES, *espeak.HELD_OUT_VOICES, *espeak.MANY_VOICES):
        delivery = espeak.choose_delivery("u", 1, (voice,))
        lengths[voice.name] = len(espeak.engine().speak("Good morning, said Ben.", delivery))
    assert all(8_000 < samples < 40_000 for samples in lengths.values()), lengths
    unknown = espeak.Delivery(voice="en-gb-nobody", pitch=50, words_per_minute=220)
    with pytest.raises(DataError, match="find the voice 'en-gb-nobody'"):
        espeak.engine().speak("Hello.", unknown)
    fast = espeak.Delivery(voice="en", pitch=50, words_per_minute=250)
    slow = espeak.Delivery(voice="en", pitch=50, words_per_minute=200)
    long, short = (espeak.engine().speak(SENTENCES["plain"], d) for d in (slow, fast))
    assert len(short) < 0.95 * len(long)


def test_file_names_are_safe_and_distinct() -> None:
    ids = ["a/b", "a%2Fb", "../x", "ü", "y" * 300, "y" * 301, ".", "a b"]
    names = [speech_source.file_name(identifier) for identifier in ids]
    assert len(set(names)) == len(ids)
    assert all("/" not in name and len(name) < 200 for name in names)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_json_lines_are_read(tmp_path: Path, suffix: str) -> None:
    data = "".join(json.dumps({"text": f"Zeile {i} ü"}) + "\n" for i in range(3)).encode()
    path = tmp_path / f"list.{suffix}"
    if suffix == "jsonl.zst":
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(data)
    else:
        path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    assert read_texts(path)[2] == ("list-0000002", "Zeile 2 ü")


def damaged_gzip(data: bytes) -> bytes:
    packed = bytearray(gzip.compress(data))
    packed[30:40] = b"\xff" * 10
    return bytes(packed)


def bad_lists(folder: Path) -> dict[str, tuple[Path, str]]:
    """Text lists that must be refused whole, with what the error must say."""
    for name, data in {
        "latin.jsonl": b'{"text": "caf\xe9"}\n',
        "broken.jsonl": b'{"text": \n"text"\n',
        "column.jsonl": b'{"sentence": "x"}\n' * 2,
        "empty.jsonl": b"",
        "words.parquet": b"no parquet",
        "list.csv": b"text\n",
    }.items():
        (folder / name).write_bytes(data)
    pq.write_table(pa.table({"sentence": ["x"]}), folder / "column.parquet")
    (folder / "damaged.jsonl.gz").write_bytes(damaged_gzip(b'{"text": "ok"}\n' * 1000))
    write_list(folder / "mute.parquet", {"a": "...", "b": "?"})
    says = {
        "nowhere.parquet": "does not exist",
        "latin.jsonl": "not one of its 1 rows can be used: 1 invalid_utf8; the first, 'line 1'",
        "damaged.jsonl.gz": "cannot be read",
        "broken.jsonl": "not one of its 2 rows can be used: 2 invalid_json",
        "column.jsonl": "no column 'text'",
        "empty.jsonl": "is empty",
        "words.parquet": "cannot be read as Parquet",
        "list.csv": "expected a name ending in",
        "column.parquet": "no column 'text'; it has sentence",
        "mute.parquet": "none of the 2 texts",
    }
    return {name: (folder / name, message) for name, message in says.items()}


def test_bad_lists_are_refused(tmp_path: Path) -> None:
    for path, message in bad_lists(tmp_path).values():
        with pytest.raises(DataError, match=message):
            make(path, tmp_path / "out" / path.stem)
        assert not (tmp_path / "out" / path.stem / "manifest.parquet").exists()


def list_with_bad_rows(folder: Path, suffix: str) -> Path:
    """Two good texts among rows that cannot be used."""
    path = folder / f"list.{suffix}"
    if suffix == "jsonl":
        lines = [
            b'{"id": "a", "text": "Good morning."}',
            b'{"id": "b", "text": "caf\xe9"}',
            b'{"id": "a", "text": "Once more."}',
            b'{"text": 7}',
            b'{"text": ',
            b"[1]",
            b'{"words": "x"}',
            b'{"text": "half \\ud800"}',
            b'{"text": "It rained."}',
        ]
        path.write_bytes(b"\n".join(lines))
    else:
        texts = pa.array([b"Good morning.", b"caf\xe9", b"Once more.", b"It rained."], pa.binary())
        ids = ["a", "b", "a", "list-0000008"]
        table = pa.table({"id": ids, "text": texts.cast(pa.string(), safe=False)})
        pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("suffix", "counts"),
    [
        (
            "jsonl",
            {
                "duplicate_id": 1,
                "invalid_json": 2,
                "invalid_utf8": 2,
                "no_such_field": 1,
                "not_text": 1,
            },
        ),
        ("parquet", {"duplicate_id": 1, "invalid_utf8": 1}),
    ],
)
def test_bad_rows_of_a_list_do_not_cost_the_good_ones(
    suffix: str, counts: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = list_with_bad_rows(tmp_path, suffix)
    good = [("a", "Good morning."), ("list-0000008", "It rained.")]
    assert read_texts(path) == good
    assert f"{sum(counts.values())} of {sum(counts.values()) + 2} rows" in capsys.readouterr().err
    summary = make(path, tmp_path / "out", "--workers", "1")
    assert (summary.utterances, summary.rejected) == (2, counts)
    assert [(row.id, row.text) for row in read_manifest(summary.manifest)] == good
    lines = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert len(lines) == sum(counts.values())
    assert all(json.loads(line).keys() == {"id", "reason", "detail"} for line in lines)
    assert f"{counts['duplicate_id']} duplicate_id" in capsys.readouterr().out
