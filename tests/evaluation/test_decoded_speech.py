from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from megatron_speech.audio import read_audio
from megatron_speech.data.manifest import ManifestRow, write_manifest
from megatron_speech.errors import CheckpointError, ConfigError, DataError
from megatron_speech.evaluation.recognisers import ScriptedJudge
from megatron_speech.evaluation.seams import seam_figures
from megatron_speech.io.files import read_json
from megatron_speech.speech_tokenizer.transcription import word_error_rate
from megatron_speech.speech_tokenizer.whisper import Whisper
from tests.speech_decoder.tiny_decoder import tiny_decoder
from tests.speech_tokenizer.conftest import make_tokenizer as make_tokenizer
from tests.speech_tokenizer.conftest import noise
from tests.speech_tokenizer.conftest import text_folder as text_folder
from tests.speech_tokenizer.small_whisper import save_small_whisper
from tools import evaluate_decoder

RATE = 22_050


def hum(seconds: float = 1.0) -> np.ndarray:
    times = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * 220 * times)).astype(np.float32)


def test_seams_of_equal_audio_do_not_show():
    audio = hum()
    found = seam_figures(audio, audio, [5000, 9000], RATE)
    assert found["largest_difference"] == 0
    assert found["joint_energy_error_db"] == found["other_energy_error_db"] == 0
    assert found["largest_jump_ratio"] == pytest.approx(1, abs=0.01)


def test_a_click_and_a_gap_show():
    audio, clicked, gap = hum(), hum(), hum()
    clicked[9000:] *= -1  # the phase jumps
    assert seam_figures(clicked, audio, [9000], RATE)["largest_jump_ratio"] > 3
    assert seam_figures(clicked, audio, [5000], RATE)["largest_jump_ratio"] < 1
    gap[8900:9100] = 0
    found = seam_figures(gap, audio, [9000], RATE)
    assert found["joint_energy_error_db"] > found["other_energy_error_db"] + 3


class Loudness(torch.nn.Module):
    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        return torch.stack([audio.abs().mean(), audio.abs().amax()])


@pytest.fixture
def loudness(tmp_path) -> Path:
    path = tmp_path / "loudness.pt"
    torch.jit.save(torch.jit.script(Loudness()), str(path))
    return path


def test_models_are_plugged_in(loudness, tmp_path):
    found = ScriptedJudge(loudness, "cpu")(np.array([0.5, -1.0], np.float32))
    np.testing.assert_allclose(found, [0.75, 1.0])
    (tmp_path / "no.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"torch\.jit\.save"):
        ScriptedJudge(tmp_path / "no.pt", "cpu")


@pytest.fixture
def command(make_tokenizer, tmp_path) -> list[str]:
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    decoder = tiny_decoder(tokenizer_fingerprint=tokenizer.fingerprint)
    decoder.save_pretrained(tmp_path / "decoder")
    rows = []
    for number in range(3):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, noise(24_000 + 800 * number, number), 16_000)
        rows.append(ManifestRow(id=f"a/{number}", path=path, text="the cat sat", speaker="ann"))
    rows.append(ManifestRow(id="gone", path=tmp_path / "gone.wav", text="lost"))
    write_manifest(tmp_path / "manifest.parquet", rows)
    return [
        "--decoder",
        str(tmp_path / "decoder"),
        "--speech-tokenizer",
        str(tmp_path / "tokenizer"),
        "--manifest",
        str(tmp_path / "manifest.parquet"),
        "--recognisers",
        "tokenizer",
    ]


def test_the_table(command, loudness, tmp_path, capsys):
    files = ["--output", str(tmp_path / "table.json"), "--audio", str(tmp_path / "samples")]
    plugs = ["--speaker-model", str(loudness), "--utmos-model", str(loudness)]
    results = evaluate_decoder.main([*command, *files, *plugs])
    assert results == read_json(tmp_path / "table.json")
    rows = results["rows"]
    assert list(rows) == ["real", "griffin_lim", "vocoder", "offline", "streaming"]
    assert rows["real"]["mel_distance"] == 0
    assert rows["real"]["speaker_similarity"] == pytest.approx(1)
    assert rows["griffin_lim"]["mel_distance"] < rows["offline"]["mel_distance"]
    assert rows["offline"]["mel_distance"] == pytest.approx(
        rows["streaming"]["mel_distance"], abs=1e-3
    )
    assert 0 < rows["offline"]["utmos"] < 1
    assert rows["offline"]["wer_tokenizer"] > 0
    assert results["streaming"]["largest_difference"] < 1e-4
    assert results["recordings"] == 3
    assert len(list((tmp_path / "samples").glob("*.flac"))) == 15
    assert "1 recordings cannot be read" in capsys.readouterr().out


def test_recordings_are_spoken_in_their_own_voice(command, tmp_path, make_tokenizer):
    fingerprint = make_tokenizer().fingerprint
    decoder = tiny_decoder(tokenizer_fingerprint=fingerprint, speakers=("ann", "eve"))
    torch.nn.init.normal_(decoder.flow.speaker.weight, std=3.0)
    decoder.save_pretrained(tmp_path / "decoder")
    distances = {}
    for voice in (None, "ann", "eve"):
        more = ["--speaker", voice] if voice else []
        rows = evaluate_decoder.main([*command, "--limit", "1", *more])["rows"]
        distances[voice] = [rows[row]["mel_distance"] for row in ("offline", "streaming")]
    assert distances[None] == distances["ann"]  # whose recordings they are
    assert distances["eve"] != pytest.approx(distances["ann"], abs=1e-3)
    assert distances["eve"][0] == pytest.approx(distances["eve"][1], abs=1e-3)
    with pytest.raises(ConfigError, match="knows no voice 'bob'"):
        evaluate_decoder.main([*command, "--speaker", "bob"])


def test_an_independent_whisper_reads_what_was_decoded(command, tmp_path):
    whisper = str(save_small_whisper(tmp_path / "whisper"))
    more = [*command, "whisper", "--whisper", whisper, "--limit", "1"]
    rows = evaluate_decoder.main(more)["rows"]
    assert all({"wer_tokenizer", "wer_whisper"} <= row.keys() for row in rows.values())
    heard = Whisper.from_pretrained(whisper).transcribe([read_audio(tmp_path / "0.wav")], ["en"])
    assert rows["real"]["wer_whisper"] == word_error_rate(["the cat sat"], heard)
    for flags in ([*command, "whisper"], [*command, "--whisper", whisper]):
        with pytest.raises(ConfigError, match="go together"):
            evaluate_decoder.main(flags)


def test_bad_input(command, tmp_path):
    with pytest.raises(DataError, match="of the voice 'eve'"):
        evaluate_decoder.main([*command, "--voice", "eve"])
    tiny_decoder().save_pretrained(tmp_path / "decoder")
    with pytest.raises(ConfigError, match="was trained on"):
        evaluate_decoder.main(command)
    with pytest.raises(ConfigError, match="--limit is 0"):
        evaluate_decoder.main([*command, "--limit", "0"])
