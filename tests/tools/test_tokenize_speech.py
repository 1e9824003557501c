import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from megatron_speech.data.code_shards import read_code_shards
from megatron_speech.data.manifest import ManifestRow, write_manifest
from megatron_speech.errors import CheckpointError, ConfigError, DataError
from megatron_speech.speech_tokenizer.tokenizer import SpeechTokenizer
from tests.speech_tokenizer.tiny_tokenizer import save_tiny_tokenizer
from tools import tokenize_speech

GOOD, SIZE = 10, 4


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    return save_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    random = np.random.default_rng(0)
    rows = []

    def add(name: str, audio: np.ndarray, rate_hz: int = 16000, **options) -> None:
        path = folder / f"{name}.wav"
        soundfile.write(path, audio, rate_hz, **options)
        rows.append(ManifestRow(id=name, path=path, text="hello", speaker="s", language="en"))

    for number in range(GOOD):
        add(f"good{number}", 0.2 * random.standard_normal(9000 + 1700 * number))
        if number == 3:
            add("silent", np.zeros(16000))
            add("nan", np.full(16000, np.nan), subtype="FLOAT")
            rows.append(ManifestRow(id="missing", path=folder / "gone.wav", text="x"))
            (folder / "noise.wav").write_bytes(b"RIFF, but no more")
            rows.append(ManifestRow(id="broken", path=folder / "noise.wav", text="x"))
    add("stereo48k", 0.2 * random.standard_normal((48000, 2)), 48000)
    write_manifest(folder / "manifest.parquet", rows)
    return folder / "manifest.parquet"


def arguments(manifest: Path, tokenizer: Path, output: Path, *more: str) -> list[str]:
    files = ["--input", str(manifest), "--speech-tokenizer", str(tokenizer)]
    return [*files, "--output", str(output), "--shard-size", str(SIZE), *more]


def shard_bytes(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.glob("*.parquet"))}


def test_bad_recordings_are_set_aside_and_the_rest_is_whole(manifest, tokenizer_folder, tmp_path):
    result = tokenize_speech.main(arguments(manifest, tokenizer_folder, tmp_path))
    assert result.rejected == {"silent": 1, "not_finite": 1, "missing": 1, "unreadable": 1}
    lines = (tmp_path / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["silent", "nan", "missing", "broken"]

    tokenizer = SpeechTokenizer.from_pretrained(tokenizer_folder)
    info, records = read_code_shards(tmp_path, tokenizer.fingerprint)
    records = list(records)
    assert (info.frame_rate_hz, info.num_codes) == (12.5, 64)
    assert [r.id for r in records] == [f"good{n}" for n in range(GOOD)] + ["stereo48k"]
    assert records[-1].duration_s == pytest.approx(1.0)
    assert len(records[-1].codes) == 13
    audio, _ = soundfile.read(manifest.parent / "good5.wav", dtype="float32")
    np.testing.assert_array_equal(records[5].codes, tokenizer.encode([audio])[0])
    assert (records[5].text, records[5].speaker, records[5].language) == ("hello", "s", "en")


def test_a_killed_job_continues_to_the_same_bytes(manifest, tokenizer_folder, tmp_path):
    tokenize_speech.main(arguments(manifest, tokenizer_folder, tmp_path))
    whole, rejected = shard_bytes(tmp_path), (tmp_path / "rejected.jsonl").read_bytes()
    assert len(whole) == 4
    (tmp_path / "shard_000001.parquet").unlink()
    (tmp_path / "rejected.jsonl").unlink()
    result = tokenize_speech.main(arguments(manifest, tokenizer_folder, tmp_path))
    assert result.skipped_shards == 3
    assert shard_bytes(tmp_path) == whole
    assert (tmp_path / "rejected.jsonl").read_bytes() == rejected


def test_recordings_that_turn_up_later_are_tokenized(tokenizer_folder, tmp_path, capsys):
    random, rows = np.random.default_rng(1), []
    for number in range(10):
        path = tmp_path / f"clip{number}.wav"
        soundfile.write(path, 0.2 * random.standard_normal(9000), 16_000)
        rows.append(ManifestRow(id=path.stem, path=path, text="hello"))
    soundfile.write(tmp_path / "clip9.wav", np.zeros(9000), 16_000)  # stays set aside
    write_manifest(tmp_path / "m.parquet", rows)
    job = [tmp_path / "m.parquet", tokenizer_folder]
    whole = [*job, tmp_path / "whole"]
    tokenize_speech.main(arguments(*whole))

    late, cut = tmp_path / "clip1.wav", tmp_path / "clip6.wav"
    late.rename(tmp_path / "elsewhere.wav")
    content = cut.read_bytes()
    cut.write_bytes(b"RIFF")
    again = [*job, tmp_path / "again"]
    result = tokenize_speech.main(arguments(*again))
    assert result.rejected == {"missing": 1, "silent": 1, "unreadable": 1}
    assert tokenize_speech.main(arguments(*again)).skipped_shards == 3

    (tmp_path / "elsewhere.wav").rename(late)
    cut.write_bytes(content)
    capsys.readouterr()
    tokenize_speech.main(arguments(*again, "--dry-run"))
    assert "3 are there; 2 of them are made anew" in capsys.readouterr().out
    result = tokenize_speech.main(arguments(*again))
    assert "2 shards are made anew" in capsys.readouterr().err
    assert (result.skipped_shards, result.rejected) == (1, {"silent": 1})
    assert shard_bytes(tmp_path / "again") == shard_bytes(tmp_path / "whole")
    assert tokenize_speech.main(arguments(*again)).skipped_shards == 3


@pytest.mark.parametrize("beside", ["clip0.txt", "clips.trans.txt"])
def test_texts_of_a_folder_that_changed_are_another_job(beside, tokenizer_folder, tmp_path):
    sound = 0.2 * np.random.default_rng(1).standard_normal(9000)
    (tmp_path / "speech").mkdir()
    soundfile.write(tmp_path / "speech/clip0.wav", sound, 16_000)
    text = tmp_path / "speech" / beside
    first = "" if beside == "clip0.txt" else "clip0 "
    text.write_text(f"{first}one")
    job = arguments(tmp_path / "speech", tokenizer_folder, tmp_path / "out")
    tokenize_speech.main(job)
    assert tokenize_speech.main(job).skipped_shards == 1
    text.write_text(f"{first}two")
    with pytest.raises(ConfigError, match=r"other settings \(input\).* remove the folder"):
        tokenize_speech.main(job)


def test_another_job_in_the_same_folder_is_refused(manifest, tokenizer_folder, tmp_path):
    tokenize_speech.main(arguments(manifest, tokenizer_folder, tmp_path / "out"))
    other = SpeechTokenizer.from_pretrained(tokenizer_folder)
    other.model.encoder.quantizer.codebook.weight.data += 0.5
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"other settings \(speech tokenizer\)"):
        tokenize_speech.main(arguments(manifest, tmp_path / "other", tmp_path / "out"))
    with pytest.raises(DataError, match=f"expected {'0' * 16}"):
        read_code_shards(tmp_path / "out", "0" * 16)
    with pytest.raises(ConfigError, match=r"other settings \(shard_size\)"):
        tokenize_speech.main(
            arguments(manifest, tokenizer_folder, tmp_path / "out", "--shard-size", "5")
        )


def test_bad_input(manifest, tokenizer_folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        tokenize_speech.main(arguments(manifest, tmp_path, tmp_path / "out"))
    with pytest.raises(DataError, match="does not exist"):
        tokenize_speech.main(arguments(tmp_path / "no.parquet", tokenizer_folder, tmp_path))
    rows = [ManifestRow(id=str(n), path=Path(f"gone{n}.wav"), text="x") for n in range(2)]
    write_manifest(tmp_path / "gone.parquet", rows)
    with pytest.raises(DataError, match="all 2 recordings"):
        tokenize_speech.main(arguments(tmp_path / "gone.parquet", tokenizer_folder, tmp_path / "o"))
    with pytest.raises(SystemExit):
        tokenize_speech.main(["--no-such-flag"])
