"""Made-up figures with the shape of a finished run on real models."""

from dataclasses import asdict

import numpy as np

from examples.quickstart.samples import Recording, Segment
from examples.real.report import headline
from examples.real.run import MANY_VOICES, NARRATOR, NEW_VOICE, STORY, TOPIC
from examples.real.sizes import BLENDS, DEMO
from tests.examples.sample_report import DIRECTIONS, share


def cloze(*accuracies: float, n: int = 500) -> dict:
    cells = zip(DIRECTIONS, accuracies, strict=False)
    return {direction: share(accuracy, n) for direction, accuracy in cells}


def arm(heard: float, loss: float) -> dict:
    figures = {TOPIC: cloze(0.7, heard, 0.6, 0.55), STORY: cloze(0.6, 0.5, 0.5, 0.5)}
    return {"cloze": figures, "text_loss": loss, "text_loss_tokens": 25_600}


def errors(whisper: float, codes: float) -> dict:
    return {
        "wer_whisper": whisper,
        "wer_vectors": (whisper + codes) / 2,
        "wer_codes": codes,
        "words": 900,
        "by_language": {},
        "codebook_usage": 0.85,
        "perplexity": 300.0,
    }


def make_report() -> dict:
    arms = {"base": arm(0.5, 3.9), "control": arm(0.52, 3.8), "model": arm(0.66, 3.85)}
    facts = {"language": "en", "recordings": 400, "other_languages": 0, "transcribed": 0}
    report = {
        "size": "demo",
        "machine": {"processor": "Example", "cores": 2},
        "settings": asdict(DEMO),
        "blends": BLENDS,
        "seconds": {"speech": 60.0, "model": 4000.0},
        "seconds_in_all": 4060.0,
        "materials": {
            "whisper": "whisper-tiny.en",
            "base": "smollm2",
            "judge": None,
            "notes": ["Base <small>, dequantised from Q4_1: package 1; Apache-2.0"],
        },
        "text": {"documents": 200},
        "recordings": {
            "prompts-en": facts,
            "prompts-fr": {**facts, "language": "fr", "transcribed": 400},
            "prompts-ru": {**facts, "language": "ru", "recordings": 0, "other_languages": 564},
        },
        "speech_tokenizer": {
            "sets": {
                "prompts-en": errors(0.04, 0.12),
                "prompts-fr": errors(0.0, 0.5),
                NARRATOR: errors(0.1, 0.2),
                MANY_VOICES: errors(0.2, 0.25),
                NEW_VOICE: errors(0.2, 0.3),
            },
            "num_codes": 1024,
            "frame_rate_hz": 12.5,
            "held_out": {"codes": 12_345, "codebook_usage": 0.85, "perplexity": 300.0},
        },
        "text_to_token": {"made": {"wer": 0.28}, "real": {"wer": 0.25}, "held_out_loss": 2.718},
        "interleave": {
            "documents": 100, "speech_word_fraction": 0.29, "text_tokens": 300_000,
            "speech_tokens": 330_000, "wer": 0.3, "wer_n": 400, "rejected": {"no_end": 3},
        },
        "base": {"text_loss": 3.9, "text_loss_with_codes": 3.902, "added_rows": 1026},
        "tokens": 1_015_808,
        "evaluation": arms,
        "curve": {
            name: [{"tokens": 0, **arms["base"]}, {"tokens": 1_015_808, **arms[name]}]
            for name in ("model", "control")
        },
        "samples": [
            {
                "context": ["The rain had stopped.", "Nobody <spoke>."],
                "right": "Anne rose.",
                "heard": {"base": "", "control": "It was", "model": "She said"},
                "read": {"base": "He was", "control": "It was", "model": "She said"},
            }
        ],
        "bars": [],
    }  # fmt: skip
    report["headline"] = headline(report["evaluation"])
    return report


def make_shown() -> dict:
    """What the page shows beside the figures."""
    sound = np.sin(np.arange(1600) / 9).astype(np.float32)
    recording = Recording(
        kind="prompts-en", text="press pound", reading="press found", codes=np.arange(2),
        samples=sound, sample_rate_hz=16_000, speaker="prompts-en",
    )  # fmt: skip
    return {
        "recordings": [recording],
        "beginnings": [sound],
        "passage": [
            (Segment(text="It was <late> and"), None),
            (Segment(text="the bells were ringing", num_codes=14), sound),
            (Segment(text="", num_codes=3), None),
        ],
        "curves": {"model": [(5, 4.0), (10, 3.5)], "control": [(5, 4.1), (10, 3.4)]},
    }
