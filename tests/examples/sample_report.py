"""Made-up figures with the shape of a finished run."""

import numpy as np

from examples.quickstart.samples import Recording, Segment

DIRECTIONS = ("t2t", "s2t", "s2s", "t2s")


def share(accuracy: float, n: int = 600) -> dict:
    return {"accuracy": accuracy, "n": n, "stderr": (accuracy * (1 - accuracy) / n) ** 0.5}


def cloze(values) -> dict:
    return {
        direction: {
            **share(value),
            "rule": "pmi" if direction.endswith("s") else "total",
            "rules": {"total": share(value), "per_token": share(value), "pmi": share(value)},
        }
        for direction, value in zip(DIRECTIONS, values, strict=True)
    }


def qa(accuracy: float) -> dict:
    samples = [
        {"question": "Where does Anna live?", "references": ["Tarn"], "answer": a, "right": r}
        for a, r in [("In Tarn.", True), ("in <Mell> & co", False)] * 3
    ]
    direction = {**share(accuracy, 90), "rule": "contains", "rules": {}, "samples": samples}
    return {"world": dict.fromkeys(("t2t", "s2t", "s2s"), direction)}


def make_report() -> dict:
    model = {
        "cloze": {"topic": cloze([0.97, 0.95, 0.78, 0.91]), "story": cloze([0.93, 0.88, 0.7, 0.8])},
        "cascade": {"topic": {"s2t": share(0.96)}, "story": {"s2t": share(0.92)}},
        "qa": qa(0.2),
    }
    control = {
        "cloze": {"topic": cloze([0.97, 0.51, 0.8, 0.52]), "story": cloze([0.94, 0.49, 0.71, 0.5])},
        "qa": qa(0.05),
    }
    return {
        "size": "demo",
        "text": [],
        "world": {"name": "StoryWorld", "documents": 60000, "text_documents": 59400},
        "speech": {"utterances": 24000, "hours": 9.4, "voices": 9},
        "speech_tokenizer": {
            "wer_vq": 0.074,
            "wer_held_out_voice": 0.108,
            "wer_windows": 0.132,
            "wer_no_vq": None,
            "codebook_usage": 0.9,
            "codebook_usage_held_out_voice": 0.86,
            "perplexity": 288.0,
            "perplexity_held_out_voice": 251.0,
            "num_codes": 512,
            "frame_rate_hz": 12.5,
        },
        "text_to_token": {
            "wer": 0.082,
            "wer_real_codes": 0.077,
            "wer_windows": 0.151,
            "wer_real_codes_windows": 0.132,
        },
        "interleave": {
            "documents": 40000,
            "speech_word_fraction": 0.302,
            "text_tokens": 1_100_000,
            "speech_tokens": 1_900_000,
            "spans": 52_000,
            "rejected": {"loop": 136, "no_end": 8},
            "wer": 0.171,
            "wer_n": 400,
        },
        "pretraining": {
            "text_loss": 1.21,
            "speech_loss": 2.9,
            "control": {"text_loss": 1.2, "speech_loss": 3.1},
            "parameters": 3_700_000,
            "tokens": 3_000_000,
        },
        "evaluation": {"model": model, "control": control},
        "bars": [
            {"name": "Word errors", "wanted": "<= 12.0%", "value": "7.4%", "met": True},
            {"name": "S→T, hard", "wanted": ">= 75.0%", "value": "70.1%", "met": False},
        ],
        "blends": {"model": {"text": 0.3, "interleaved": 0.45}, "control": {"text": 0.45}},
        "machine": {"processor": "Example", "cores": 2, "precision": "bf16", "bf16 GFLOP/s": 854.0},
        "settings": {"corpus_documents": 60000, "tokenizer_steps": 2160, "seeds": [1234]},
        "seconds": {"storyworld": 3.2, "speech": 80.0, "speech_tokenizer": 212.0, "model": 290.0},
        "seconds_in_all": 585.2,
    }


def make_shown() -> dict:
    """What the page shows beside the figures."""
    rng = np.random.default_rng(0)
    time_s = np.arange(32000) / 16000
    samples = np.sin(2 * np.pi * 180 * time_s) * np.abs(np.sin(2 * np.pi * 1.7 * time_s)) * 0.4
    recordings = [
        Recording(
            kind=kind,
            text="Anna took the old boat out before the storm.",
            reading="anna took the gold boat out before the storm",
            codes=rng.integers(0, 512, 25),
            samples=(samples * rng.uniform(0.4, 1, 32000)).astype(np.float32),
            sample_rate_hz=16000,
            speaker="en+f4",
        )
        for kind in ("sentence", "sentence", "held-out voice", "word window")
    ]
    steps = np.arange(1, 733)

    def curve(start, end):
        noise = rng.normal(0, 0.05, len(steps))
        return list(zip(steps, end + (start - end) * np.exp(-steps / 120) + noise, strict=True))

    curves = {
        arm: {"text loss": curve(6, 1.3 + shift), "speech loss": curve(6, 3.0 + shift)}
        for arm, shift in (("model", 0), ("control", 0.1))
    }
    curves["text_to_token"] = {"speech loss": curve(6, 2.0)}
    curves["speech_tokenizer"] = {"asr loss": curve(6, 0.1)}
    document = [
        Segment(text="Mira packed her basket and went to"),
        Segment(text="the harbour in the morning. She wanted to buy", num_codes=38),
        Segment(text="fresh fish for the soup. The boats were late, so she"),
        Segment(text="waited on the wall", num_codes=14),
        Segment(text="and watched the gulls."),
    ]
    return {
        "recordings": recordings,
        "code_counts": rng.zipf(1.6, 512).clip(0, 900),
        "curves": curves,
        "documents": [document, document],
    }
