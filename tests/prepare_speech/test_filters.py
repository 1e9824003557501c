"""Each reason for setting a segment aside, and the borders between them."""

from dataclasses import replace

import numpy as np
import pytest

from megatron_speech.errors import ConfigError
from megatron_speech.prepare_speech.filters import (
    Candidate,
    Thresholds,
    reject_reading,
    reject_sound,
)
from megatron_speech.prepare_speech.measures import measure_sound
from megatron_speech.prepare_speech.readers import Reading
from megatron_speech.prepare_speech.segments import Segment
from megatron_speech.prepare_speech.transcripts import distribute
from megatron_speech.text.repetition import repetition

SEGMENT = Segment(0.0, 4.0, 0.9)
SAID = "We went down to the harbour, and nobody was there."
READING = Reading(SAID, "en", 0.98, -0.2, 0.01)


def syllables(seed: int = 0) -> np.ndarray:
    """Noise that swells and ebbs to next to nothing, four times a second."""
    times = np.arange(64_000) / 16_000
    noise = np.random.default_rng(seed).standard_normal(len(times))
    return (0.05 * noise * np.sin(2 * np.pi * 2 * times) ** 2 + 1e-4 * noise).astype(np.float32)


def candidate(**changes) -> Candidate:
    known = {"id": "a", "segment": SEGMENT, "sound": measure_sound(syllables()), "text": SAID}
    known |= {"first": READING, "second": SAID, "has_transcript": False}
    return Candidate(**known | changes)


def why(**changes) -> str | None:
    found = reject_reading(candidate(**changes), Thresholds(languages=("en", "es")))
    return found and found.reason


def test_readings():
    assert why() is None
    assert why(second=SAID.replace("harbour,", "harbor")) is None
    assert why(second="We went to town too, and somebody was there.") == "readings_disagree"
    assert why(second="") == "readings_disagree"
    assert why(text="...", first=replace(READING, text="...")) == "no_text"
    assert why(first=replace(READING, log_probability=-1.4)) == "low_probability"
    assert why(first=replace(READING, log_probability=-1.4, no_speech=0.9)) == "no_speech"
    assert why(first=replace(READING, language="de-DE")) == "other_language"
    assert why(first=replace(READING, language="Spanish"), second=SAID) is None
    assert why(first=replace(READING, language_probability=0.3)) == "language_unsure"
    loop = "thank you for watching " * 6
    assert why(text=loop, first=replace(READING, text=loop), second=loop) == "repetition"
    assert repetition("no no no no") == 99
    assert repetition(SAID) < 2


def test_a_transcript_is_kept_unless_the_reading_differs():
    close = "WE WENT DOWN TO THE HARBOR AND NOBODY WAS THERE"
    assert why(text=close, second=close, has_transcript=True) is None
    other = "IT WAS A BRIGHT COLD DAY IN APRIL"
    assert why(text=other, second=other, has_transcript=True) == "transcript_differs"


def reject(audio: np.ndarray, segment: Segment = SEGMENT) -> str | None:
    found = reject_sound("a", segment, measure_sound(audio), Thresholds())
    return found and found.reason


def test_sound():
    audio = syllables()
    assert reject(audio) is None
    assert reject(np.clip(10 * audio, -0.2, 0.2)) == "clipped"
    hiss = 0.05 * np.random.default_rng(1).standard_normal(len(audio)).astype(np.float32)
    assert reject(audio + hiss) == "noisy"
    assert reject(audio, Segment(0, 0.5, 1.0)) == "too_short"
    assert reject(audio, Segment(0, 31.0, 1.0)) == "too_long"
    assert reject(audio, Segment(0, 4.0, 0.3)) == "little_speech"


def test_thresholds_are_shares():
    with pytest.raises(ConfigError, match="--most-clipped is 3"):
        Thresholds(most_clipped=3)


def test_a_long_transcript_is_cut_to_its_segments():
    text = "Call me Ishmael. Some years ago - never mind how long - I went to sea."
    read = ["call me ishmael", "some years ago never mine how long", "uh i went to see"]
    parts = distribute(text, read)
    assert parts[0] == "Call me Ishmael."
    assert parts[1].startswith("Some years ago")
    assert parts[2].endswith("I went to sea.")
    assert " ".join(" ".join(parts).split()) == text
    assert distribute(text, ["", ""]) == ["", ""]
    assert distribute("好。你们早", ["好", "你们早"]) == ["好。", "你们早"]


@pytest.mark.parametrize("name", ["least_snr_db", "most_repetition", "least_log_probability"])
def test_a_threshold_that_is_no_number_is_refused(name):
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} is nan"):
        Thresholds(**{name: float("nan")})
