"""Figures of a finished voice demo, its page, and what is asked of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.quickstart import bars
from examples.voice.sizes import MODES
from examples.voice.stages import VoiceDemo
from megatron_speech import pages

HEADLINE_MODE = "streaming"
"""The mode whose answers are judged: text and speech in turn, as in the chat."""
ALL, ONE_TURN = "all", "all of one turn"
MOST_MINUTES, MOST_REALTIME = 15, 1.0
_SHOWN = 3


def build_report(
    demo: VoiceDemo, done: Mapping[str, Any], times: Mapping[str, Any]
) -> dict[str, Any]:
    """The contents of report.json."""
    quality, chat = done["quality"], done["chat"]
    rows, streaming = quality["rows"], quality["streaming"]
    headline = chat["modes"][HEADLINE_MODE]
    report = {
        **demo.facts(),
        **times,
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
        "latency": _latency(headline["latency"], done["conversation"]["tokenise_s"]),
        "realtime_factor": headline["latency"].get("real_time_factor"),
        "conversation": done["conversation"]["turns"],
    }
    report["bars"] = _bars(report) if demo.size.has_bars else []
    return report


def _latency(asked_in_codes: Mapping[str, float | None], tokenise_s: float) -> dict[str, Any]:
    """Medians over the questions, which were codes already; tokenising is the conversation's."""
    latency = {"tokenise_s": tokenise_s, **asked_in_codes}
    for name in ("first_text_s", "first_audio_s"):
        if (seconds := latency.get(name)) is not None:
            latency[name] = seconds + tokenise_s
    return latency


def _bars(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is asked of the voice demo, and what came."""
    decoder, chat = report["decoder"], report["chat"]
    found = [
        bars.points(f"Word errors beyond recordings, decoded {how}",
                    decoder[f"wer_{row}"] - decoder["wer_real"], most=0.15)
        for row, how in (("offline", "at once"), ("streaming", "as a stream"))
    ]  # fmt: skip
    for direction, name in (("s2t", "S→T"), ("s2s", "S→S")):
        # of the same items: the pre-trained model is asked none of several turns
        figure = chat["modes"][HEADLINE_MODE][direction][ONE_TURN]
        before = chat["pretrained"][direction][ONE_TURN]
        gain = figure["accuracy"] - max(before["accuracy"], figure["chance"])
        error = 2 * max(figure["stderr"], before["stderr"])
        name = f"{name} answers, above the pre-trained model and chance"
        wanted = f"> {100 * error:.0f} points (2 standard errors)"
        found.append(bars.bar(name, wanted, f"{100 * gain:+.1f}", gain > error))
    difference = decoder["streaming"]["largest_difference"]
    found += [
        _below("Real-time factor of answers", report["realtime_factor"], MOST_REALTIME, ""),
        _below("From a question to the first sound",
               report["latency"].get("first_audio_s"), 1.0, " s"),
        bars.bar("Streamed against offline samples", "≤ 1e-4", f"{difference:.1g}",
                 difference <= 1e-4),
        _below("The whole voice demo on this machine", report["seconds_in_all"] / 60,
               MOST_MINUTES, " min"),
    ]  # fmt: skip
    return found


def _below(name: str, value: float | None, bound: float, unit: str) -> dict[str, Any]:
    met = value is not None and value <= bound
    shown = "no sound" if value is None else f"{value:.2f}{unit}"
    return bars.bar(name, f"≤ {bound:g}{unit}", shown, met)


def build_page(demo: VoiceDemo, report: Mapping[str, Any]) -> str:
    """The page as HTML: what it sounds like, beside the figures of report.json."""
    import soundfile

    def sound_of(path: str | Path) -> str:
        return pages.audio_source(*soundfile.read(path, dtype="float32"))

    folder = demo.path("quality", "audio")
    names = sorted({path.name.split(".")[0] for path in folder.glob("*.real.flac")})[:_SHOWN]
    decoded = [
        {row: folder / f"{name}.{row}.flac" for row in report["decoder"]["rows"]} for name in names
    ]
    template = Path(__file__).parent / "page.html"
    return pages.render(template, report=report, decoded=decoded, sound_of=sound_of)
