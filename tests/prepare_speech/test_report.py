"""The page on prepared speech."""

import numpy as np
import soundfile

from megatron_speech.prepare_speech.filters import Thresholds
from megatron_speech.prepare_speech.report import write_report

SUMMARY = {
    "hours": 0.5, "recordings": 1, "speech_hours": 0.2, "kept_hours": 0.1, "kept": 1,
    "rejected": {"noisy": 1, "unreadable": 3}, "rejected_hours": {"noisy": 0.1},
    "languages": {"en": 0.1},
}  # fmt: skip


def test_a_segment_that_was_never_read_is_shown_with_its_reason(tmp_path):
    """What is set aside before Whisper reads it has neither language nor log-probability."""
    soundfile.write(tmp_path / "a.flac", np.zeros(1600), 16_000)
    both = {"path": "a.flac", "duration_s": 2.5}
    measured = {"language": "en", "log_probability": -0.2, "disagreement": 0.0, "snr_db": 20.0}
    unread = dict.fromkeys(("language", "log_probability", "disagreement", "snr_db"))
    kept = both | measured | {"id": "a/0", "status": "kept", "text": "<Yes> & no.", "detail": ""}
    noisy = both | unread | {"id": "a/1", "status": "noisy", "reading": None, "detail": "3 dB"}
    write_report(tmp_path / "report.html", SUMMARY, [kept, noisy], Thresholds())
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:audio/flac") == 2
    for words in ("&lt;Yes&gt; &amp; no.", "<b>noisy</b>: 3 dB", "whole recordings", "30.0 min"):
        assert words in page
