"""tokenize_speech at work: other inputs, many workers, kills, odd audio."""

import gzip
import json
import math
import os
import signal
import tarfile
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from megatron_speech.audio import read_audio
from megatron_speech.data.code_shards import CodeRecord, read_code_shards
from megatron_speech.data.manifest import ManifestRow, write_manifest
from megatron_speech.errors import ConfigError, InUseError
from megatron_speech.jobs.claims import exclusive
from megatron_speech.speech_tokenizer import SpeechTokenizer
from megatron_speech.speech_tokenizer.bulk import encoding, job
from tests.forked import start
from tests.odd_audio import BAD, ODD, write_odd_audio
from tests.speech_tokenizer.tiny_tokenizer import save_tiny_tokenizer
from tools import tokenize_speech

CLIPS = 23


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    """Windows of 2 s: batches of 30 s hold many, and a minute is a long recording."""
    return save_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), max_source_positions=100)


def sound(samples: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    envelope = np.abs(np.sin(np.arange(samples) / 3000 + seed))
    return (0.3 * envelope * random.standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """A folder of recordings of 0.1 to 60 s with texts beside them, and their manifest."""
    folder = tmp_path_factory.mktemp("speech")
    rows = []
    for number in range(CLIPS):
        path = folder / f"clip{number:02d}.wav"
        seconds = 60 if number == 7 else 0.1 + (number * 1.37) % 9
        soundfile.write(path, sound(int(16_000 * seconds), number), 16_000)
        path.with_suffix(".txt").write_text(f"text {number}")
        rows.append(ManifestRow(id=path.stem, path=path, text=f"text {number}", duration_s=seconds))
        if number == 11:
            (folder / "broken.flac").write_bytes(b"no audio")
            rows.append(ManifestRow(id="broken", path=folder / "broken.flac", text="x"))
    rows.append(rows[0])
    write_manifest(folder / "manifest.parquet", rows)
    return folder


def run(source: Path, tokenizer: Path, output: Path, *more: str):
    return tokenize_speech.main(flags(source, tokenizer, output, *more))


def flags(source: Path, tokenizer: Path, output: Path, *more: str) -> list[str]:
    given = {"--input": source, "--speech-tokenizer": tokenizer, "--output": output}
    sizes = ["--shard-size", "4", "--batch-seconds", "30"]
    return [*(str(part) for pair in given.items() for part in pair), *sizes, *more]


def shards(output: Path) -> dict[str, bytes]:
    """All files of a finished job."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != "job.json"
    }


def read(output: Path) -> list[CodeRecord]:
    return list(read_code_shards(output)[1])


@pytest.fixture(scope="module")
def whole(speech, tokenizer_folder, tmp_path_factory) -> Path:
    """The job as one worker does it without a stop."""
    output = tmp_path_factory.mktemp("whole")
    run(speech / "manifest.parquet", tokenizer_folder, output)
    return output


def test_codes_are_those_of_each_recording_alone(whole, speech, tokenizer_folder):
    records = read(whole)
    assert [record.id for record in records] == [f"clip{n:02d}" for n in range(CLIPS)]
    tokenizer = SpeechTokenizer.from_pretrained(tokenizer_folder)
    for record in records:
        audio, _ = soundfile.read(speech / f"{record.id}.wav", dtype="float32")
        np.testing.assert_array_equal(record.codes, tokenizer.encode([audio])[0])
        assert record.duration_s == pytest.approx(len(audio) / 16_000)
    lines = (whole / "rejected.jsonl").read_text().splitlines()
    assert [(item["id"], item["reason"]) for item in map(json.loads, lines)] == [
        ("clip00", "duplicate_id"),
        ("broken", "unreadable"),
    ]
    assert not list(whole.glob(".*.claim"))
    assert len(set(np.concatenate([record.codes for record in records]).tolist())) > 10


@pytest.mark.parametrize("tasks", [2, 5, 9])
def test_any_number_of_workers_writes_the_same_bytes(
    tasks, whole, speech, tokenizer_folder, tmp_path
):
    order = np.random.default_rng(tasks).permutation(tasks)
    for task in order.tolist():
        result = run(
            speech / "manifest.parquet",
            tokenizer_folder,
            tmp_path,
            *("--task", str(task), "--tasks", str(tasks)),
            *("--num-workers", str(1 + task)),
        )
        last = task == order[-1]
        assert bool(result.missing_shards) != last
        assert (tmp_path / "rejected.jsonl").exists() == last
    assert shards(tmp_path) == shards(whole)


def test_a_task_of_an_array_makes_its_share(whole, speech, tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "4")
    result = run(speech / "manifest.parquet", tokenizer_folder, tmp_path)
    assert result.missing_shards == 5
    made = {name: data for name, data in shards(tmp_path).items() if name.endswith(".parquet")}
    assert made == {"shard_000003.parquet": shards(whole)["shard_000003.parquet"]}


def test_batches_follow_from_the_shard_alone(speech, tokenizer_folder, tmp_path, monkeypatch):
    """Not from threads, room to read ahead, or which shards a worker makes; and they are full."""
    monkeypatch.setattr(encoding, "SORTED_BATCHES", 2)
    original, seen = SpeechTokenizer.prepare_batch, {}

    def prepare_batch(self, windows):
        seen[name].append(sorted(hash(window.tobytes()) for window in windows))
        assert len(windows) * max(map(len, windows)) <= 30 * 16_000
        return original(self, windows)

    monkeypatch.setattr(SpeechTokenizer, "prepare_batch", prepare_batch)
    for name, more in (
        ("one", ["--num-workers", "1"]),
        ("eight", ["--num-workers", "8"]),
        ("shared", ["--task", "1", "--tasks", "2"]),
        ("shared", ["--task", "0", "--tasks", "2"]),
    ):
        seen.setdefault(name, [])
        run(speech / "manifest.parquet", tokenizer_folder, tmp_path / name, *more)
    assert seen["one"] == seen["eight"]
    assert sorted(seen["one"]) == sorted(seen["shared"])
    assert len(seen["one"]) < 20


def killed_with_two_shards_more(arguments):
    """The tool, killed when it is about to write its third shard."""
    written, write = [], job.write_code_shard

    def write_or_die(path, *content):
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(path)
        write(path, *content)

    with mock.patch.object(job, "write_code_shard", write_or_die):
        tokenize_speech.main(arguments)


def test_two_kills_change_no_byte(whole, speech, tokenizer_folder, tmp_path):
    arguments = flags(speech / "manifest.parquet", tokenizer_folder, tmp_path)
    for made in (2, 4):
        process = start(killed_with_two_shards_more, arguments)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(list(tmp_path.glob("*.parquet"))) == made
    result = tokenize_speech.main(arguments)
    assert result.skipped_shards == 4
    assert shards(tmp_path) == shards(whole)


def test_a_task_that_was_started_twice_is_done_by_one(speech, tokenizer_folder, tmp_path):
    arguments = flags(speech / "manifest.parquet", tokenizer_folder, tmp_path)
    with exclusive(tmp_path / "task 1 of 2"):
        with pytest.raises(InUseError, match="task 1 of 2 is in use by process"):
            tokenize_speech.main([*arguments, "--task", "1", "--tasks", "2"])
        assert not list(tmp_path.glob("*.parquet"))
        tokenize_speech.main([*arguments, "--task", "0", "--tasks", "2"])
    assert len(list(tmp_path.glob("*.parquet"))) == 3


def test_tars_folders_and_cuts_give_the_same_codes(whole, speech, tokenizer_folder, tmp_path):
    expected = {record.id: record for record in read(whole)}
    for part in range(2):
        with tarfile.open(tmp_path / f"part{part}.tar", "w") as tar:
            for path in sorted(speech.glob("clip*")):
                if (path.stem > "clip10") == part:
                    tar.add(path, path.name)
    source = {"type": "file", "channels": [0]}
    cuts = [
        {
            "id": name,
            "start": 0.0,
            "duration": record.duration_s,
            "channel": 0,
            "supervisions": [{"text": record.text}],
            "recording": {"sources": [source | {"source": str(speech / f"{name}.wav")}]},
            "type": "MonoCut",
        }
        for name, record in expected.items()
    ]
    with gzip.open(tmp_path / "cuts.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(cut) + "\n" for cut in cuts)
    for place in (tmp_path / "cuts.jsonl.gz", speech, tmp_path):
        output = tmp_path.with_name(f"{tmp_path.name}-{place.name}")
        run(place, tokenizer_folder, output, "--num-workers", "3")
        found = {record.id.rpartition(":")[2]: record for record in read(output)}
        assert found.keys() == expected.keys()
        for name, record in found.items():
            np.testing.assert_array_equal(record.codes, expected[name].codes)
            assert record.text == expected[name].text
    assert len(list(output.glob("*.parquet"))) == 2  # one for each tar


def test_three_hours_in_one_recording(tmp_path):
    """At 8 kHz, mostly silent: each minute gets the codes it gets alone."""
    folder, minutes, rate_hz = save_tiny_tokenizer(tmp_path / "tokenizer"), 180, 8_000
    (tmp_path / "speech").mkdir()

    def minute(number: int) -> np.ndarray:
        samples = np.zeros(60 * rate_hz, np.float32)
        start = number % 57 * rate_hz
        samples[start : start + 2 * rate_hz] = sound(2 * rate_hz, number)
        return samples

    with soundfile.SoundFile(tmp_path / "speech/long.flac", "w", rate_hz, 1) as file:
        for number in range(minutes):
            file.write(minute(number))
    run(tmp_path / "speech", folder, tmp_path / "codes")
    (record,) = read(tmp_path / "codes")
    assert record.codes.shape == (minutes * 750,)
    assert record.duration_s == 3 * 3600
    tokenizer = SpeechTokenizer.from_pretrained(folder)
    for number in (0, 77, 179):
        soundfile.write(tmp_path / "minute.wav", minute(number), rate_hz)
        alone = tokenizer.encode([read_audio(tmp_path / "minute.wav")])[0]
        found = record.codes[number * 750 : (number + 1) * 750]
        assert len(set(alone.tolist())) > 2  # sound and silence
        assert (found == alone).mean() > 0.99


def test_odd_audio_is_read_and_bad_audio_set_aside(tokenizer_folder, tmp_path):
    write_manifest(tmp_path / "m.parquet", write_odd_audio(tmp_path))
    result = run(tmp_path / "m.parquet", tokenizer_folder, tmp_path / "out")
    assert result.rejected == Counter(BAD.values())
    lines = (tmp_path / "out/rejected.jsonl").read_text().splitlines()
    assert {item["id"]: item["reason"] for item in map(json.loads, lines)} == BAD
    records = {record.id: record for record in read(tmp_path / "out")}
    assert records.keys() == ODD.keys()
    for name, seconds in ODD.items():
        assert 0 <= len(records[name].codes) - math.ceil(12.5 * seconds) <= 1


def test_the_plan_is_printed_and_nothing_is_done(speech, tokenizer_folder, tmp_path, capsys):
    plan = run(
        speech / "manifest.parquet",
        tokenizer_folder,
        tmp_path / "out",
        *("--dry-run", "--task", "1", "--tasks", "4"),
    )
    said = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    seconds = sum(60 if n == 7 else 0.1 + (n * 1.37) % 9 for n in range(CLIPS))
    assert plan.recordings.listed.seconds == pytest.approx(seconds)
    for words in (
        "clips       24",
        "23 clips whose length is known",
        "1 duplicate_id",
        "shards      6, of which 0",
        "it makes 2 shards",
        "GB",
    ):
        assert words in said


def test_settings_that_cannot_work_are_refused(speech, tokenizer_folder, tmp_path, capsys):
    manifest = speech / "manifest.parquet"
    for more, message in (
        (["--task", "4", "--tasks", "4"], "--task is 4"),
        (["--task", "0"], "go together"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(manifest, tokenizer_folder, tmp_path, *more)
    for more, message in (
        (["--batch-seconds", "-5"], "at least 30"),
        (["--num-workers", "0"], "at least 1"),
    ):
        with pytest.raises((SystemExit, ConfigError)) as caught:
            run(manifest, tokenizer_folder, tmp_path, *more)
        said = f"{caught.value} {capsys.readouterr().err}"
        assert message in " ".join(said.replace("│", " ").split())  # tyro draws a box
    run(manifest, tokenizer_folder, tmp_path)
    with pytest.raises(ConfigError, match="batch_seconds"):
        run(manifest, tokenizer_folder, tmp_path, "--batch-seconds", "60")
    fewer = tmp_path / "fewer.parquet"
    pq.write_table(pq.read_table(manifest).slice(1), fewer)
    with pytest.raises(ConfigError, match="input"):
        run(fewer, tokenizer_folder, tmp_path)
