"""Readings by Whisper: texts of its own, and what they are worth."""

import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from megatron_speech.errors import ConfigError
from megatron_speech.prepare_speech.readers import FasterWhisperReader, WhisperReader
from megatron_speech.speech_tokenizer.whisper import Whisper
from tests.speech_tokenizer.conftest import noise
from tests.speech_tokenizer.small_whisper import save_small_whisper


def clips() -> list[np.ndarray]:
    return [noise(40_000 + 7_001 * n, n) * (0.1 + 0.1 * n) for n in range(5)]


def reader(folder) -> WhisperReader:
    return WhisperReader(folder, "cpu", 90, torch.float32)


def test_texts_and_scores_are_those_of_transformers(tmp_path):
    folder = save_small_whisper(tmp_path)
    found = reader(folder).read(clips(), ["fr"] * 5, 30)
    assert [each.text for each in found] == Whisper.from_pretrained(folder).transcribe(
        clips(), ["fr"] * 5
    )
    mel = WhisperFeatureExtractor(feature_size=80)(
        clips(), sampling_rate=16_000, return_tensors="pt"
    )
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    most = 40 - len(Whisper.from_pretrained(folder).text.prompt("fr"))
    told = {"language": "fr", "task": "transcribe", "max_new_tokens": most}
    for n, each in enumerate(found):
        features = mel.input_features[n : n + 1]
        made = model.generate(features, return_dict_in_generate=True, output_logits=True, **told)
        tokens = made.sequences[0][-len(made.logits) :]
        scores = [
            logits[0].log_softmax(-1)[token].item()
            for logits, token in zip(made.logits, tokens, strict=True)
        ]
        assert each.log_probability == pytest.approx(np.mean(scores), abs=1e-3)


def test_languages_are_found_where_they_are_not_told(tmp_path):
    folder = save_small_whisper(tmp_path / "many")
    found = reader(folder).read(clips(), ["fr", "", "", "", ""], 30)
    assert (found[0].language, found[0].language_probability) == ("fr", 1.0)
    assert {each.language for each in found[1:]} <= {"en", "fr", "zh"}
    assert all(1 / 3 <= each.language_probability < 1 for each in found[1:])
    alone = reader(folder).read(clips()[1:2], [""], 30)[0]
    assert alone.language == found[1].language
    english = reader(save_small_whisper(tmp_path / "one", multilingual=False))
    assert {each.language for each in english.read(clips(), [""] * 5, 2)} == {"en"}


def test_faster_whisper(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(ConfigError, match="pip install faster-whisper"):
        FasterWhisperReader(tmp_path, "cpu")

    class Model:
        def __init__(self, folder, **settings):
            assert settings["local_files_only"]

        def transcribe(self, clip, language, **settings):
            assert len(clip) == 480_000
            parts = [
                SimpleNamespace(text=" One.", tokens=[1], avg_logprob=-0.5, no_speech_prob=0.1),
                SimpleNamespace(text=" Two.", tokens=[1] * 3, avg_logprob=-0.2, no_speech_prob=0.2),
            ]
            return iter(parts), SimpleNamespace(language="de", language_probability=0.7)

    module = types.ModuleType("faster_whisper")
    module.WhisperModel = Model
    monkeypatch.setitem(sys.modules, "faster_whisper", module)
    one, two = FasterWhisperReader(tmp_path, "cpu").read(clips()[:2], ["", "English"], 30)
    assert (one.text, one.language, one.language_probability) == ("One. Two.", "de", 0.7)
    assert one.log_probability == pytest.approx(-0.3)
    assert (two.language, two.language_probability) == ("English", 1.0)
