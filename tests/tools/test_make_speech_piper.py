"""Piper's voices: who speaks, how fast, in which language; its network is a stand-in here.

tests/real_speech/test_piper.py has a real voice speak.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from megatron_speech.data.manifest import read_manifest
from megatron_speech.errors import ConfigError, DataError, MegatronSpeechError
from megatron_speech.text_to_speech import piper
from tests.tools.test_make_speech import SENTENCES, audio_digests, make, write_list

STAND_IN = '''
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np


@dataclass
class SynthesisConfig:
    speaker_id: int | None = None
    length_scale: float = 1.0


class PiperVoice:
    """A tone of 400 Hz and 100 more for each speaker; silent where nothing is to be heard."""

    config = SimpleNamespace(sample_rate=22050)

    @staticmethod
    def load(path):
        return PiperVoice()

    def synthesize(self, text, settings):
        time = np.arange(int(22050 * settings.length_scale)) / 22050
        tone = np.sin(2 * np.pi * (400 + 100 * (settings.speaker_id or 0)) * time)
        loud = 0.0 if "nothing" in text else 0.5
        yield SimpleNamespace(audio_float_array=(loud * tone).astype(np.float32))
'''

RUNTIME = """
class SessionOptions:
    pass


def set_seed(seed):
    pass


def InferenceSession(file, options, providers):
    assert options.intra_op_num_threads == 1
"""


@pytest.fixture
def voice(tmp_path, monkeypatch) -> Path:
    """A German voice of four speakers, and a package that speaks it."""
    for package, code in (("piper", STAND_IN), ("onnxruntime", RUNTIME)):
        (tmp_path / "site" / package).mkdir(parents=True)
        (tmp_path / "site" / package / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return write_voice(tmp_path / "voice.onnx", 4)


def write_voice(path: Path, speakers: int) -> Path:
    path.write_bytes(b"network")
    settings = {"num_speakers": speakers, "espeak": {"voice": "de"}}
    Path(f"{path}.json").write_text(json.dumps(settings))
    return path


def tone_hz(path: Path) -> float:
    sound, rate_hz = soundfile.read(path)
    return float(np.abs(np.fft.rfft(sound)).argmax() * rate_hz / len(sound))


def test_chosen_speakers_speak_each_at_its_pace(voice, tmp_path):
    texts = {f"{n}": "Guten Tag." for n in range(20)} | SENTENCES
    written = write_list(tmp_path / "texts.parquet", texts)
    make(written, tmp_path / "out", "--piper", str(voice), "--piper-speakers", "1", "3")
    rows = read_manifest(tmp_path / "out/manifest.parquet")
    assert {row.speaker for row in rows} == {"voice#1", "voice#3"}
    assert {row.language for row in rows} == {"de"}
    for row in rows:
        assert tone_hz(row.path) == pytest.approx(400 + 100 * int(row.speaker[-1]), abs=3)
    lengths = [row.duration_s for row in rows]
    assert 0.8 < min(lengths) < 0.95 < 1.1 < max(lengths) < 1.25
    said = {row.id: row.speaker for row in rows}
    assert said["story-1/000"] == said["story-1/001"]


def test_workers_change_nothing(voice, tmp_path):
    written = write_list(tmp_path / "texts.parquet", SENTENCES)
    digests = []
    for workers in ("1", "2"):
        output = tmp_path / workers
        make(written, output, "--piper", str(voice), "--workers", workers)
        digests.append(audio_digests(output))
    assert digests[0] == digests[1]
    assert len(digests[0]) == len(SENTENCES)


def test_what_stays_silent_is_set_aside(voice, tmp_path):
    written = write_list(tmp_path / "texts.parquet", {"a": "Hallo.", "b": "nothing"})
    summary = make(written, tmp_path / "out", "--piper", str(voice))
    assert (summary.utterances, summary.rejected) == (1, {"engine": 1})


def test_a_voice_of_one_speaker_has_its_file_s_name(voice, tmp_path):
    alone = write_voice(tmp_path / "alone.onnx", 1)
    found = piper.speakers_of([alone, voice], [2])
    assert [(each.name, each.speaker) for each in found] == [("alone", None), ("voice#2", 2)]
    assert len(piper.speakers_of([alone, voice])) == 5


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--piper", "none.onnx"], "none.onnx is not there"),
        (["--piper", "{voice}", "--piper-speakers", "7"], "speakers 0 to 3; none of"),
        (["--piper", "{voice}", "--piper-speakers", "-1"], "numbered from 0"),
        (["--piper", "{voice}", "--voices", "many"], "in place of them"),
        (["--piper", "{voice}", "--language", "de"], "--language is for espeak-ng"),
        (["--piper-speakers", "1"], "--piper, which is not given"),
    ],
)
def test_flags_that_do_not_fit(voice, tmp_path, flags, says):
    written = write_list(tmp_path / "texts.parquet", SENTENCES)
    with pytest.raises(ConfigError, match=says):
        make(written, tmp_path / "out", *(flag.format(voice=voice) for flag in flags))
    assert not (tmp_path / "out").exists()


def test_settings_without_a_language(voice):
    Path(f"{voice}.json").write_text('{"num_speakers": 1, "espeak": {}}')
    with pytest.raises(DataError, match="does not say what the voice speaks"):
        piper.speakers_of([voice])


def test_without_the_package(voice, monkeypatch):
    monkeypatch.setattr(piper, "find_spec", lambda name: None)
    with pytest.raises(MegatronSpeechError, match=r"pip install .* -e '\.\[piper\]'"):
        piper.speakers_of([voice])
