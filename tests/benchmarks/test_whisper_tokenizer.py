"""Starts and schedules from a small Whisper, in the smallest size: measured once, kept."""

import importlib
import math
import sys
from pathlib import Path

import pytest

from megatron_speech.errors import ConfigError
from tests.speech_tokenizer.small_whisper import save_small_whisper
from tests.tools.speech_training import write_speech

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("whisper_tokenizer")
    for name in ("whisper_tokenizer", "common"):
        sys.modules.pop(name, None)


def test_starts_and_trainings_are_measured_once(module, tmp_path, monkeypatch, capsys):
    recorded = {}
    monkeypatch.setattr(module, "report", lambda name, peer, figures: recorded.update(figures))
    whisper = save_small_whisper(tmp_path / "whisper")
    speech = write_speech(tmp_path / "speech", broken=False)
    flags = ["--whisper", str(whisper), "--manifest", str(speech), "--valid-manifest", str(speech)]
    flags += [
        "--output",
        str(tmp_path / "runs"),
        "--steps",
        "3",
        "--eval-interval",
        "1",
        "--batch-size",
        "4",
    ]
    flags += ["--limit", "3", "--variants", "more-codes", "zero"]
    figures = module.main(flags)
    assert recorded == figures
    starts = figures["untrained_starts"]
    assert len(starts) == 10
    for losses in starts.values():
        assert all(0 < loss < 60 for loss in losses.values())
    one, other = (starts[f"recipe, {p}, 0 s of silence, space"] for p in ("zero", "sinusoids"))
    assert one != other
    assert "wer_whisper" in figures["whisper_untouched"]["speech"]
    assert list(figures["trainings"]) == ["more-codes", "zero"]
    assert len(figures["trainings"]["more-codes"]["curve"]) == 3
    assert "wer_codes" in figures["trainings"]["more-codes"]["export"]["speech"]
    assert "export" not in figures["trainings"]["zero"]
    capsys.readouterr()
    assert module.main(flags) == figures
    assert "iteration" not in capsys.readouterr().out
    assert not any(math.isnan(loss) for losses in starts.values() for loss in losses.values())


def test_bad_settings(module, tmp_path):
    with pytest.raises(ConfigError, match="--variants"):
        module.WhisperTokenizerConfig(
            whisper=tmp_path, valid_manifest=(), output=tmp_path, variants=("none",)
        )
