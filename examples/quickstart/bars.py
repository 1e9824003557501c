"""What the project asks of the demo, and whether a run met it."""

from collections.abc import Mapping
from typing import Any

DEMO_SECONDS = 20 * 60
LEAST_ITEMS = 500


def held_against_bars(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each bar with what was measured: name, wanted, value, met."""
    tokenizer, t2t = report["speech_tokenizer"], report["text_to_token"]
    model = report["evaluation"]["model"]["cloze"]
    control = report["evaluation"]["control"]["cloze"]
    heard, heard_control = model["topic"]["s2t"], control["topic"]["s2t"]
    spoken, read, story = model["topic"]["t2s"], model["topic"]["t2t"], model["story"]["s2t"]
    items = min(cell["n"] for cell in (heard, heard_control, spoken, read, story))
    bars = [
        at_most("Speech tokenizer: word errors, held-out sentences", tokenizer["wer_vq"], 0.12),
        at_most("Speech tokenizer: word errors, held-out voice",
                 tokenizer["wer_held_out_voice"], 0.18),
        at_least("Speech tokenizer: codebook use", tokenizer["codebook_usage"], 0.80),
        points("Text-to-token: word errors beyond real codes, sentences",
                t2t["wer"] - t2t["wer_real_codes"], 0.05),
        points("Text-to-token: word errors beyond real codes, word windows",
                t2t["wer_windows"] - t2t["wer_real_codes_windows"], 0.05),
        at_least("S→T, Topic-StoryCloze", heard["accuracy"], 0.85),
        gain("S→T, Topic-StoryCloze, above the control",
              heard["accuracy"] - heard_control["accuracy"], 0.25),
        at_least("S→T, StoryCloze", story["accuracy"], 0.75),
        at_least("T→S by PMI, Topic-StoryCloze", spoken["accuracy"], 0.75),
        within("T→T, Topic-StoryCloze: neither too hard nor too easy",
               read["accuracy"], 0.80, 0.98),
        {
            "name": "Items of each cloze task",
            "wanted": f"≥ {LEAST_ITEMS}",
            "value": str(items),
            "met": items >= LEAST_ITEMS,
        },
    ]  # fmt: skip
    if report["size"] == "demo" and report["machine"]["precision"] == "bf16":
        minutes = report["seconds_in_all"] / 60
        bars.append(
            {
                "name": "The whole chain on this machine",
                "wanted": f"≤ {DEMO_SECONDS // 60} min",
                "value": f"{minutes:.1f} min",
                "met": minutes <= DEMO_SECONDS / 60,
            }
        )
    return bars


def at_most(name: str, value: float, bound: float) -> dict[str, Any]:
    """A share that must not be larger."""
    return bar(name, f"≤ {100 * bound:.0f}%", f"{100 * value:.1f}%", value <= bound)


def at_least(name: str, value: float, bound: float) -> dict[str, Any]:
    """A share that must not be smaller."""
    return bar(name, f"≥ {100 * bound:.0f}%", f"{100 * value:.1f}%", value >= bound)


def within(name: str, value: float, low: float, high: float) -> dict[str, Any]:
    """A share that must lie between two."""
    wanted = f"{100 * low:.0f} to {100 * high:.0f}%"
    return bar(name, wanted, f"{100 * value:.1f}%", low <= value <= high)


def points(name: str, value: float, bound: float) -> dict[str, Any]:
    """A difference of shares that must not be larger."""
    return bar(name, f"≤ {100 * bound:.0f} points", f"{100 * value:+.1f}", value <= bound)


def gain(name: str, value: float, bound: float) -> dict[str, Any]:
    """A difference of shares that must not be smaller."""
    return bar(name, f"≥ {100 * bound:.0f} points", f"{100 * value:+.1f}", value >= bound)


def bar(name: str, wanted: str, value: str, met: bool) -> dict[str, Any]:
    """What was asked, what came, and whether that meets it."""
    return {"name": name, "wanted": wanted, "value": value, "met": bool(met)}
