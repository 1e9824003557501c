"""A small Whisper read by our code and by transformers: equal, and a difference is told."""

import importlib
import sys
from pathlib import Path

import pytest

from tests.speech_tokenizer.small_whisper import save_small_whisper
from tests.tools.speech_training import write_speech

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("whisper_equality")
    for name in ("whisper_equality", "common"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("multilingual", [True, False])
def test_whole_sets_are_read_by_both(module, multilingual, tmp_path, monkeypatch):
    recorded = {}
    monkeypatch.setattr(module, "report", lambda name, peer, figures: recorded.update(figures))
    whisper = save_small_whisper(tmp_path / "whisper", multilingual)
    speech = write_speech(tmp_path / "speech", broken=False)
    flags = ["--whisper", str(whisper), "--manifest", str(speech), "--limit", "5"]
    found = module.main([*flags, "--batch-size", "2"])["speech"]
    assert recorded["speech"] == found
    assert (found["recordings"], found["equal_texts"], found["first_different"]) == (5, 5, [])
    assert found["wer_ours"] == found["wer_transformers"]

    read = module.Whisper.transcribe

    def another(self, clips, languages):
        return ["other words", *read(self, clips, languages)[1:]]

    monkeypatch.setattr(module.Whisper, "transcribe", another)
    found = module.main([*flags, "--batch-size", "4"])["speech"]
    assert (found["recordings"], found["equal_texts"]) == (5, 3)
    assert [pair[0] for pair in found["first_different"]] == ["other words"] * 2
