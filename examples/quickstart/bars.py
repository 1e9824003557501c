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
        share("Speech tokenizer: word errors, held-out sentences", tokenizer["wer_vq"], most=0.12),
        share("Speech tokenizer: word errors, held-out voice", tokenizer["wer_held_out_voice"],
              most=0.18),
        share("Speech tokenizer: codebook use", tokenizer["codebook_usage"], least=0.80),
        points("Text-to-token: word errors beyond real codes, sentences",
               t2t["wer"] - t2t["wer_real_codes"], most=0.05),
        points("Text-to-token: word errors beyond real codes, word windows",
               t2t["wer_windows"] - t2t["wer_real_codes_windows"], most=0.05),
        share("S→T, Topic-StoryCloze", heard["accuracy"], least=0.85),
        points("S→T, Topic-StoryCloze, above the control",
               heard["accuracy"] - heard_control["accuracy"], least=0.25),
        share("S→T, StoryCloze", story["accuracy"], least=0.75),
        share("T→S by PMI, Topic-StoryCloze", spoken["accuracy"], least=0.75),
        share("T→T, Topic-StoryCloze: neither too hard nor too easy", read["accuracy"],
              least=0.80, most=0.98),
        bar("Items of each cloze task", f"≥ {LEAST_ITEMS}", str(items), items >= LEAST_ITEMS),
    ]  # fmt: skip
    if report["size"] == "demo" and report["machine"]["precision"] == "bf16":
        minutes, most = report["seconds_in_all"] / 60, DEMO_SECONDS / 60
        name = "The whole chain on this machine"
        bars.append(bar(name, f"≤ {most:.0f} min", f"{minutes:.1f} min", minutes <= most))
    return bars


def share(
    name: str, value: float, *, least: float | None = None, most: float | None = None
) -> dict[str, Any]:
    """A share that has to lie within bounds."""
    return bar(name, f"{_wanted(least, most)}%", f"{100 * value:.1f}%", _within(value, least, most))


def points(
    name: str, value: float, *, least: float | None = None, most: float | None = None
) -> dict[str, Any]:
    """A difference of shares that has to."""
    wanted, met = f"{_wanted(least, most)} points", _within(value, least, most)
    return bar(name, wanted, f"{100 * value:+.1f}", met)


def bar(name: str, wanted: str, value: str, met: bool) -> dict[str, Any]:
    """What was asked, what came, and whether that meets it."""
    return {"name": name, "wanted": wanted, "value": value, "met": bool(met)}


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _wanted(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f"{100 * least:.0f} to {100 * most:.0f}"
    return f"≥ {100 * least:.0f}" if least is not None else f"≤ {100 * (most or 0):.0f}"
