"""The table of frame rates and quantizers, in the smallest size: it is trained, measured, kept."""

import importlib
import sys
from pathlib import Path

import pytest

from megatron_speech.errors import ConfigError
from tests.tools.speech_training import write_speech

ROOT = Path(__file__).resolve().parents[2]
ROWS = ["12.5hz", "6.25hz", "12.5hz-fsq", "12.5hz-no-restarts"]


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("tokenizer_table")
    for name in ("tokenizer_table", "common"):
        sys.modules.pop(name, None)


def test_rows_are_measured_once(module, tmp_path, capsys):
    for name in ("train", *module.TEST_SETS):
        write_speech(tmp_path / "speech" / name, clips=40, broken=False)
    flags = ["--speech", str(tmp_path / "speech"), "--output", str(tmp_path / "table")]
    flags += ["--recipe", "tokenizer-smoke", "--steps", "8", "--no-record", "--rows", *ROWS]
    table = module.main(flags)
    assert list(table) == ROWS
    assert [row["frame_rate_hz"] for row in table.values()] == [12.5, 6.25, 12.5, 12.5]
    assert [row["num_codes"] for row in table.values()] == [64, 256, 64, 64]
    for row in table.values():
        assert 0 < row["codebook_usage"] <= 1
        assert row["wer_sentences"] > 0.5  # after eight steps
        assert row["wer_sentences_error"] >= 0
    text = (tmp_path / "table" / "table.md").read_text()
    assert "| 12.5 Hz | FSQ | 64 | 75 |" in text
    capsys.readouterr()
    assert module.main(flags) == table
    assert "iteration" not in capsys.readouterr().out


def test_bad_settings(module, tmp_path):
    with pytest.raises(ConfigError, match="--rows are among"):
        module.TableConfig(speech=tmp_path, output=tmp_path, rows=("none",))
