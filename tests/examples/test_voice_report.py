"""The voice demo's report and page, of made-up figures."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from examples.voice.report import build_page, build_report
from examples.voice.sizes import DEMO, MODES
from examples.voice.stages import VoiceDemo

TIMES = {"seconds": {"voice": 60.0}, "seconds_in_all": 60.0}


def share(accuracy: float, chance: float = 0.1) -> dict:
    return {"accuracy": accuracy, "n": 240, "stderr": 0.02, "chance": chance}


def figures(recording: str | None) -> dict:
    latency = {"prefill_s": 0.02, "first_tokens_s": 0.3, "first_decode_s": 0.1, "first_text_s": 0.1}
    latency |= {"first_audio_s": 0.6, "real_time_factor": 0.4}
    answers = {"s2t": {"who": share(0.8), "all": share(0.6)}, "s2s": {"who": share(0.4)}}
    answers["s2s"]["all"] = share(0.3)
    for direction, accuracy in (("s2t", 0.5), ("s2s", 0.4)):
        answers[direction]["all of one turn"] = share(accuracy)
    before = {"s2t": {"who": share(0.0), "all": share(0.05)}, "s2s": {"all": share(0.0)}}
    before["s2s"]["who"] = share(0.0)
    for direction in before:
        before[direction]["all of one turn"] = before[direction]["all"]
    row = {"wer_tokenizer": 0.04, "wer_whisper": None, "mel_distance": 0.1}
    rows = dict.fromkeys(("real", "griffin_lim", "vocoder", "streaming"), row)
    rows["offline"] = {**row, "wer_tokenizer": 0.2}
    streaming = {"largest_difference": 1e-6, "first_audio_s": 0.1, "realtime_factor": 0.3}
    modes = {mode: {**answers, "latency": latency} for mode in MODES}
    turn = {"question": "Where <was> it?", "answer": "", "recording": recording, "sound": None}
    return {
        "quality": {
            "rows": rows,
            "streaming": streaming,
            "recordings": 100,
        },
        "dialogues": {"dialogues": 4000, "datasets": {}},
        "chat": {"modes": modes, "pretrained": before},
        "conversation": {"turns": [turn], "tokenise_s": 0.2},
    }


@pytest.fixture
def demo(tmp_path):
    machine = {"processor": "Example", "cores": 2, "precision": "bf16"}
    return VoiceDemo(size=DEMO, output=tmp_path / "voice", machine=machine, base=tmp_path / "demo")


def test_report_has_the_documented_keys(demo):
    report = build_report(demo, figures(None), TIMES)
    assert {"wer_real", "wer_offline", "wer_streaming"} <= report["decoder"].keys()
    assert report["chat"]["s2t_accuracy"] == 0.6
    assert report["chat"]["s2s_accuracy"] == 0.3
    assert report["chat"]["n"] == 240
    assert report["latency"]["first_audio_s"] == pytest.approx(0.8)  # the question had to be heard
    assert report["realtime_factor"] == 0.4


def test_bars_are_told_apart(demo):
    bars = build_report(demo, figures(None), TIMES)["bars"]
    fallen = [bar["name"] for bar in bars if not bar["met"]]
    assert fallen == ["Word errors beyond recordings, decoded at once"]
    assert bars[2]["value"] == "+40.0"  # chance is .1, and right .5 of what both were asked
    slow = figures(None)
    slow["conversation"]["tokenise_s"] = 0.5
    slow["quality"]["streaming"]["largest_difference"] = 1e-3
    for found in slow["chat"]["modes"].values():
        found["s2s"]["all of one turn"] = share(0.12)
    bars = build_report(demo, slow, TIMES | {"seconds_in_all": 16 * 60.0})["bars"]
    assert len([bar for bar in bars if not bar["met"]]) == 5


def test_the_page_needs_nothing_else(demo, tmp_path):
    sound = tmp_path / "question.wav"
    soundfile.write(sound, np.sin(np.arange(8000) / 20) * 0.3, 16_000)
    report = build_report(demo, figures(str(sound)), TIMES)
    page = build_page(demo, report)
    HTMLParser().feed(page)
    assert not re.search(r"https?://|@import|url\((?!#)|<script", page)
    assert "data:audio/" in page
    assert "Where &lt;was&gt; it?" in page
    assert "(nothing was said)" in page
    assert "(no text)" in page
