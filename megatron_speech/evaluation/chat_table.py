"""The tables of the chat evaluation: accuracies, latency, the paper's rows beside ours."""

from dataclasses import dataclass
from typing import Any

from .chat import ALL


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
    from rich.console import Console
    from rich.table import Table

    console = Console()
    named = [(f"chat {mode}", found) for mode, found in results["modes"].items()]
    if "pretrained" in results:
        named.append(("pre-trained", results["pretrained"]))
    table = Table(title=f"right answers of {results['model']}")
    for column in ("model", "direction", "kind"):
        table.add_column(column)
    for column in ("accuracy", "n", "chance"):
        table.add_column(column, justify="right")
    for name, found in named:
        for direction in ("s2t", "s2s"):
            for kind, figure in found.get(direction, {}).items():
                accuracy = f"{figure['accuracy']:.3f} ± {figure['stderr']:.3f}"
                shown = (accuracy, str(figure["n"]), f"{figure['chance']:.3f}")
                table.add_row(name, direction, kind, *shown, end_section=kind == ALL)
    console.print(table)
    _print_latency(console, results["modes"])
    paper = Table(title="chat models; other questions and judges than ours, to be read with care")
    paper.add_column("system")
    for column in ("quality 1-10", "knowledge", "UTMOS", "ASR-WER %"):
        paper.add_column(column, justify="right")
    paper.add_column("source")
    rows = [own_row(mode, found) for mode, found in results["modes"].items()]
    for row in (*PAPER_ROWS, *rows):
        values = (row.quality, row.knowledge, row.utmos, row.wer)
        shown = ("-" if value is None else f"{value:.2f}" for value in values)
        paper.add_row(row.name, *shown, row.source)
    console.print(paper)
    console.print("± is one standard error; s2t: the written answer, s2s: the spoken one as heard")


def _print_latency(console: Any, modes: dict[str, Any]) -> None:
    """Where the time to the first sound goes; questions are codes already."""
    from rich.table import Table

    names = ("prefill_s", "first_tokens_s", "first_decode_s", "first_text_s", "first_audio_s")
    table = Table(title="latency, medians in seconds; work per second of sound")
    table.add_column("mode")
    for column in ("prefill", "first tokens", "speech decoder", "text", "sound", "real time"):
        table.add_column(column, justify="right")
    for mode, found in modes.items():
        latency = found["latency"]
        values = [*(latency.get(name) for name in names), latency.get("real_time_factor")]
        table.add_row(mode, *("-" if value is None else f"{value:.3f}" for value in values))
    console.print(table)
