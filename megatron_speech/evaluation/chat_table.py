"""The tables of the chat evaluation: accuracies, latency, the paper's rows beside ours."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .printing import print_rows


@dataclass(frozen=True)
class PaperRow:
    """A published chat model: quality 1-10, knowledge (share x 10), UTMOS, ASR-WER in percent."""

    name: str
    quality: float | None
    knowledge: float | None
    utmos: float | None
    wer: float | None
    source: str


_TABLE = "arXiv 2412.02612, chat evaluation (same authors)"
_DIGEST = "second-hand digest of arXiv 2411.17607"
PAPER_ROWS = (
    PaperRow("SpeechGPT", 1.40, 2.20, 3.86, 66.57, _TABLE),
    PaperRow("Mini-Omni", 2.44, 1.10, 3.17, 25.28, _TABLE),
    PaperRow("Llama-Omni", 3.50, 3.90, 3.92, 9.18, _TABLE),
    PaperRow("Moshi", 2.42, 3.60, 3.90, 7.95, _TABLE),
    PaperRow("2411.17607 9B, text-guided", 3.69, 4.70, 4.33, 7.83, _DIGEST),
    PaperRow("2411.17607 9B, direct S->S", 3.18, 3.20, None, None, _DIGEST),
    PaperRow("GLM-4-Voice", 5.40, 5.20, 4.45, 5.74, _TABLE),
)


def own_row(mode: str, figures: dict[str, Any]) -> PaperRow:
    """Our figures of one mode in the paper's columns; on other questions, judged by another."""
    judged = figures.get("judge") or {}
    wer = figures.get("wer_audio", figures.get("wer_codes"))
    correct = judged.get("correct")
    return PaperRow(
        name=f"this model, {mode}",
        quality=judged.get("quality"),
        knowledge=None if correct is None else 10 * correct,
        utmos=figures.get("utmos"),
        wer=None if wer is None else 100 * wer,
        source="here, on --items" + (f", judged by {judged['model']}" if judged else ""),
    )


def print_tables(results: dict[str, Any]) -> None:
    """Accuracies by kind, then ours among the paper's rows."""
    named = [(f"chat {mode}", found) for mode, found in results["modes"].items()]
    if "pretrained" in results:
        named.append(("pre-trained", results["pretrained"]))
    rows = [
        (name, direction, kind, f"{figure['accuracy']:.3f} ± {figure['stderr']:.3f}",
         str(figure["n"]), f"{figure['chance']:.3f}")
        for name, found in named
        for direction in ("s2t", "s2s")
        for kind, figure in found.get(direction, {}).items()
    ]  # fmt: skip
    names = ("model", "direction", "kind", "accuracy", "n", "chance")
    print_rows(f"right answers of {results['model']}", names, rows)
    _print_latency(results["modes"])
    own = [own_row(mode, found) for mode, found in results["modes"].items()]
    print_rows(
        "chat models; other questions and judges than ours, to be read with care",
        ("system", "quality 1-10", "knowledge", "UTMOS", "ASR-WER %", "source"),
        [
            (row.name, *_shown((row.quality, row.knowledge, row.utmos, row.wer), 2), row.source)
            for row in (*PAPER_ROWS, *own)
        ],
    )
    print("± is one standard error; s2t: the written answer, s2s: the spoken one as heard")


def _shown(values: Iterable[float | None], digits: int) -> list[str]:
    return ["-" if value is None else f"{value:.{digits}f}" for value in values]


def _print_latency(modes: dict[str, Any]) -> None:
    """Where the time to the first sound goes; questions are codes already."""
    keys = ("prefill_s", "first_tokens_s", "first_decode_s", "first_text_s", "first_audio_s",
            "real_time_factor")  # fmt: skip
    print_rows(
        "latency, medians in seconds; work per second of sound",
        ("mode", "prefill", "first tokens", "speech decoder", "text", "sound", "real time"),
        [
            (mode, *_shown((found["latency"].get(key) for key in keys), 3))
            for mode, found in modes.items()
        ],
    )
