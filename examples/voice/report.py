"""Figures of a finished voice demo, and what is asked of them."""

from collections.abc import Mapping
from typing import Any

from examples.quickstart import bars
from examples.voice.sizes import MODES
from examples.voice.stages import VoiceDemo

HEADLINE_MODE = "streaming"
"""The mode whose answers are judged: text and speech in turn, as in the chat."""
ALL = "all"


def build_report(
    demo: VoiceDemo, done: Mapping[str, Any], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """The contents of report.json."""
    quality, chat = done["quality"], done["chat"]
    rows, streaming = quality["rows"], quality["streaming"]
    headline = chat["modes"][HEADLINE_MODE]
    report = {
        "size": demo.size.name,
        "machine": demo.machine,
        "settings": demo.size.settings(),
        "seconds": dict(seconds),
        "decoder": {
            "wer_real": rows["real"]["wer_tokenizer"],
            "wer_offline": rows["offline"]["wer_tokenizer"],
            "wer_streaming": rows["streaming"]["wer_tokenizer"],
            "recordings": quality["recordings"],
            "rows": rows,
            "streaming": streaming,
        },
        "dialogues": done["dialogues"],
        "chat": {
            "mode": HEADLINE_MODE,
            "s2t_accuracy": headline["s2t"][ALL]["accuracy"],
            "s2s_accuracy": headline["s2s"][ALL]["accuracy"],
            "n": headline["s2t"][ALL]["n"],
            "modes": {mode: chat["modes"][mode] for mode in MODES},
            "pretrained": chat["pretrained"],
        },
        "latency": headline["latency"],
        "realtime_factor": headline["latency"].get("real_time_factor"),
        "conversation": done["conversation"]["turns"],
    }
    report["bars"] = _bars(report) if demo.size.has_bars else []
    return report


def _bars(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is asked of the voice demo, and what came."""
    decoder, chat = report["decoder"], report["chat"]
    found = [
        bars.points(
            f"Word errors beyond recordings, decoded {how}",
            decoder[f"wer_{row}"] - decoder["wer_real"],
            0.15,
        )
        for row, how in (("offline", "at once"), ("streaming", "as a stream"))
    ]
    for direction, name in (("s2t", "S→T"), ("s2s", "S→S")):
        figure = chat["modes"][HEADLINE_MODE][direction][ALL]
        before = chat["pretrained"][direction][ALL]
        gain = figure["accuracy"] - max(before["accuracy"], figure["chance"])
        error = 2 * max(figure["stderr"], before["stderr"])
        found.append(
            bars.bar(
                f"{name} answers, above the pre-trained model and chance",
                f"> {100 * error:.0f} points (2 standard errors)",
                f"{100 * gain:+.1f}",
                gain > error,
            )
        )
    factor = report["realtime_factor"]
    met = factor is not None and factor < 1
    shown = "no sound" if factor is None else f"{factor:.2f}"
    found.append(bars.bar("Real-time factor of answers", "< 1", shown, met))
    return found
