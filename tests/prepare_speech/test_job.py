"""The whole job with a small Whisper of random weights and a stand-in for voice activity."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from megatron_speech.data.manifest import read_manifest
from megatron_speech.errors import CheckpointError, ConfigError, DataError
from megatron_speech.prepare_speech import job
from megatron_speech.prepare_speech.config import PrepareConfig
from megatron_speech.prepare_speech.readers import Reading
from megatron_speech.prepare_speech.voice_activity import FRAME_SAMPLES
from tests.interleaving.jobs import files_of
from tests.prepare_speech.test_duplicates import babble
from tests.speech_tokenizer.small_whisper import save_small_whisper
from tools import prepare_speech

WORDS = "one two three four five six seven eight nine ten".split()


class Loudness:
    """Voice activity for sounds that are loud or not."""

    def probabilities(self, blocks):
        audio = np.concatenate([*blocks])
        frames = np.pad(audio, (0, -len(audio) % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES)
        return (np.abs(frames).max(axis=1) > 0.02).astype(np.float32)


class Knowing:
    """Reads a clip as words that follow from its sound alone."""

    def __init__(self, wrong: float = -1.0):
        self.wrong = wrong

    def read(self, clips, languages, silence_s):
        found = []
        for clip, language in zip(clips, languages, strict=True):
            seed = round(float(np.abs(clip).max()) * 1000)
            words = np.random.default_rng(seed).permutation(WORDS)[: max(len(clip) // 16_000, 2)]
            text = "Nonsense." if len(clip) / 16_000 < self.wrong else " ".join(words).capitalize()
            found.append(Reading(text + ".", language or "en", 0.9, -0.3, 0.0))
        return found


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    quiet = np.zeros(24_000, np.float32)
    for number in range(5):
        parts = [quiet]
        for n in range(4):
            sound = babble(1.5 + n, 10 * number + n) * np.linspace(0.9, 1, 1)
            parts += [sound, quiet]
        soundfile.write(folder / f"call-{number}.flac", np.concatenate(parts), 16_000)
    first, _ = soundfile.read(folder / "call-0.flac")
    soundfile.write(folder / "call-7.flac", 0.8 * np.pad(first, (900, 0)), 16_000)
    soundfile.write(folder / "mute.flac", 0.01 * babble(3, 99), 16_000)
    (folder / "broken.wav").write_bytes(b"RIFF no more")
    return folder


@pytest.fixture
def stand_ins(monkeypatch):
    monkeypatch.setattr(job.VoiceActivity, "from_package", classmethod(lambda cls: Loudness()))
    monkeypatch.setattr(job, "WhisperReader", lambda *settings: Knowing())


def flags(recordings: Path, whisper: Path, output: Path, *more: object) -> list[str]:
    keep = ["--least-snr-db", "0", "--shard-size", "2", "--second-speed", "1"]
    named = ["--input", recordings, "--whisper", whisper, "--output", output]
    named += ["--second-whisper", whisper]
    return [*map(str, named), *keep, *map(str, more)]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> Path:
    return save_small_whisper(tmp_path_factory.mktemp("whisper"))


def test_the_same_files_whoever_makes_them(stand_ins, recordings, whisper, tmp_path, monkeypatch):
    whole = prepare_speech.main(flags(recordings, whisper, tmp_path / "whole"))
    assert whole.summary["rejected"] == {"duplicate": 4, "no_speech": 1, "unreadable": 1}
    assert whole.summary["kept"] == 20
    rows = read_manifest(tmp_path / "whole/manifest.parquet")
    assert [row.id for row in rows[:2]] == ["call-0/0000", "call-0/0001"]
    for row in rows:
        audio, rate_hz = soundfile.read(row.path)
        assert rate_hz == 16_000
        assert row.duration_s == pytest.approx(len(audio) / rate_hz, abs=1e-3)
        assert row.text.endswith(".")
    expected = files_of(tmp_path / "whole")
    for tasks in (2, 4):
        output = tmp_path / f"by-{tasks}"
        for task in reversed(range(tasks)):
            more = ["--task", task, "--tasks", tasks]
            prepare_speech.main(flags(recordings, whisper, output, *more))
        assert files_of(output) == expected

    def dies(*arguments):
        raise KeyboardInterrupt

    output = tmp_path / "killed"
    for step in ("write_parquet", "write_json", "write_report", "find_repeats", "_finish"):
        with monkeypatch.context() as patched:
            patched.setattr(job, step, dies)
            with pytest.raises(KeyboardInterrupt):
                prepare_speech.main(flags(recordings, whisper, output))
    prepare_speech.main(flags(recordings, whisper, output))
    assert files_of(output) == expected
    with pytest.raises(ConfigError, match="begun with other settings"):
        prepare_speech.main(flags(recordings, whisper, output, "--most-disagreement", 0.1))


def test_the_report_says_why_and_lets_hear(stand_ins, recordings, whisper, tmp_path, monkeypatch):
    readers = iter([Knowing(), Knowing(wrong=2.0)])
    monkeypatch.setattr(job, "WhisperReader", lambda *settings: next(readers))
    result = prepare_speech.main(flags(recordings, whisper, tmp_path))
    assert result.summary["rejected"]["readings_disagree"] == 6
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:audio/flac") >= 14
    for word in ("readings_disagree", "unreadable", "least_snr_db", "call-0/0001"):
        assert word in page
    lines = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    (one,) = [each for each in lines if each["id"] == "call-0/0000"]
    assert "at most 0.25" in one["detail"]
    heard = pq.read_table(next((tmp_path / "parts").glob("*.parquet"))).to_pylist()
    assert all((tmp_path / row["path"]).is_file() for row in heard if row["path"])


def test_a_recording_that_turns_up_later_is_heard(
    stand_ins, recordings, whisper, tmp_path, monkeypatch
):
    names = ["call-1", "call-2", "call-3", "gone"]
    lines = [{"id": n, "path": str(recordings / f"{n}.flac"), "text": ""} for n in names]
    lines[-1]["path"] = str(tmp_path / "gone.flac")
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = flags(tmp_path / "m.jsonl", whisper, tmp_path / "out")
    before = prepare_speech.main(job)
    assert before.summary["rejected"] == {"missing": 1}
    assert prepare_speech.main(job).seconds == 0
    (tmp_path / "gone.flac").write_bytes((recordings / "call-4.flac").read_bytes())
    after = prepare_speech.main(job)
    assert (after.summary["recordings"], after.summary["rejected"]) == (4, {})
    assert prepare_speech.main(job).seconds == 0
    prepare_speech.main(flags(tmp_path / "m.jsonl", whisper, tmp_path / "whole"))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_terms_and_transcripts(stand_ins, recordings, whisper, tmp_path):
    rows = [
        {"id": "a", "path": "call-1.flac", "license": "CC0", "consent": "yes", "speaker": "s"},
        {"id": "b", "path": "call-2.flac", "license": "unknown", "consent": "yes"},
        {"id": "c", "path": "call-3.flac", "license": "cc0", "consent": "asked"},
        {"id": "d", "path": "call-4.flac", "license": "cc0", "consent": "yes", "text": "Not this."},
    ]
    manifest = tmp_path / "m.jsonl"
    lines = [row | {"path": str(recordings / row["path"])} for row in rows]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    more = ["--licenses", "cc0", "cc-by", "--consents", "yes", "--language", "en"]
    result = prepare_speech.main(flags(manifest, whisper, tmp_path / "out", *more))
    expected = {"consent": 1, "license": 1, "transcript_differs": 1}
    assert result.summary["rejected"] == expected
    kept = read_manifest(tmp_path / "out/manifest.parquet")
    assert {(row.license, row.consent, row.speaker) for row in kept} == {("CC0", "yes", "s")}


def test_nothing_kept_is_an_error(stand_ins, recordings, whisper, tmp_path):
    more = ["--least-log-probability", "-0.1"]
    with pytest.raises(DataError, match="were set aside"):
        prepare_speech.main(flags(recordings, whisper, tmp_path, *more))


def test_dry_run_and_plans_that_cannot_be(stand_ins, recordings, whisper, tmp_path, capsys):
    prepare_speech.main(flags(recordings, whisper, tmp_path / "out", "--dry-run"))
    assert "8, and 0 archives" in capsys.readouterr().out
    assert not os.path.exists(tmp_path / "out")
    with pytest.raises(ConfigError, match="would read the same twice"):
        PrepareConfig(input=(recordings,), whisper=str(whisper), output=tmp_path, second_speed=1)


@pytest.mark.parametrize(
    "wrong", [["--device", "banana"], ["--second-whisper", "EMPTY"], ["--whisper", "EMPTY"]]
)
def test_what_cannot_be_loaded_leaves_no_folder_that_refuses_the_next_call(
    wrong, recordings, whisper, tmp_path, monkeypatch
):
    monkeypatch.setattr(job.VoiceActivity, "from_package", classmethod(lambda cls: Loudness()))
    (tmp_path / "empty").mkdir()
    output = tmp_path / "out"
    wrong = [word.replace("EMPTY", str(tmp_path / "empty")) for word in wrong]
    with pytest.raises((ConfigError, CheckpointError), match=r"banana|empty"):
        prepare_speech.main(flags(recordings, whisper, output, *wrong))
    assert not (output / "job.json").exists()
    monkeypatch.setattr(job, "WhisperReader", lambda *settings: Knowing())
    prepare_speech.main(flags(recordings, whisper, output))
    assert (output / "manifest.parquet").exists()
