"""The page of a voice demo: what it sounds like, beside the figures of report.json."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import soundfile

from examples.quickstart import charts
from examples.quickstart.page import html_page
from examples.quickstart.sections import audio_source
from examples.quickstart.stage_sections import figure, time_table
from examples.quickstart.tables import bars_table, percent, table
from examples.voice.report import ALL, HEADLINE_MODE
from examples.voice.stages import VoiceDemo

_ROWS = {
    "real": "recording",
    "griffin_lim": "its spectrogram, by Griffin-Lim",
    "vocoder": "its spectrogram, by the vocoder",
    "offline": "its codes, decoded at once",
    "streaming": "its codes, decoded as a stream",
}
_SHOWN = 3
_KINDS = {
    "ending": "how a story ends",
    "where": "where it was",
    "who": "who it was about",
    "later": "a second question",
    "fact": "facts from pre-training",
    ALL: "all",
}


def build_page(demo: VoiceDemo, report: Mapping[str, Any]) -> str:
    """The page as HTML. Style, pictures and audio are inside; nothing is fetched."""
    parts = [
        ("conversation", "A conversation", _conversation(report)),
        ("decoder", "From codes to a voice", _decoder(demo, report)),
        ("answers", "Are the answers right?", _answers(report)),
        ("latency", "How soon it speaks", _latency(report)),
        ("time", "Time and machine", time_table(report)),
    ]
    closing = (
        "<footer>The same figures, for programs: <code>report.json</code> beside this page."
        "</footer>"
    )
    return html_page("megatron_speech: a voice", _opening(report), parts, closing)


def _opening(report: Mapping[str, Any]) -> str:
    decoder = report["decoder"]
    smoke = (
        '<p class="note">A smoke run: every stage worked for some twenty steps only, so it speaks '
        "noise and answers nothing. It shows that the parts fit.</p>"
        if report["size"] == "smoke"
        else ""
    )
    return (
        f'<header><p class="kicker">megatron_speech · {escape(report["size"])} run</p>'
        "<h1>Codes become a voice again</h1>"
        f'<p class="lead">Of held-out sentences that were spoken again from their codes alone, the '
        f"recogniser misses {percent(decoder['wer_streaming'])} of the words; of the recordings "
        f"themselves {percent(decoder['wer_real'])}.</p>{smoke}</header>"
    )


def _player(path: str | Path | None) -> str:
    if path is None:
        return '<p class="note">(nothing was said)</p>'
    samples, rate_hz = soundfile.read(path, dtype="float32")
    return f'<audio controls preload="none" src="{audio_source(samples, rate_hz)}"></audio>'


def _conversation(report: Mapping[str, Any]) -> str:
    turns = "".join(
        f'<div class="card"><div class="tag"><span>you</span></div>{_player(turn["recording"])}'
        f'<p class="said">{escape(turn["question"])}</p></div>'
        f'<div class="card"><div class="tag"><span>the model</span></div>{_player(turn["sound"])}'
        f'<p class="said">{escape(turn["answer"]) or "(no text)"}</p></div>'
        for turn in report["conversation"]
    )
    return (
        "<p>Questions are recordings that the model never met, of a story it never read. It hears "
        "their codes, and answers in text and speech by turns; the sound is made of its speech "
        f'tokens.</p><div class="grid">{turns}</div>'
    )


def _decoder(demo: VoiceDemo, report: Mapping[str, Any]) -> str:
    rows = report["decoder"]["rows"]
    names = [name for name in rows["real"] if name.startswith("wer_")]
    head = [("", ""), *((f"word errors, {name[4:]}", "n") for name in names), ("mel distance", "n")]
    body = [
        [
            (escape(_ROWS[row]), ""),
            *((percent(figures[name]), "n") for name in names),
            (f"{figures['mel_distance']:.2f}", "n"),
        ]
        for row, figures in rows.items()
    ]
    streaming = report["decoder"]["streaming"]
    facts = [
        figure(f"{streaming['first_audio_s']:.2f} s", "from the first block of codes to sound"),
        figure(f"{streaming['realtime_factor']:.2f}", "seconds of work a second of sound"),
        figure(f"{streaming['largest_difference']:.1g}", "largest difference, stream to offline"),
    ]
    return (
        "<p>A flow model makes spectrograms of codes, 0.8 s at a time, and a vocoder sound of "
        f"those. {report['decoder']['recordings']} sentences, read back by the speech tokenizer's "
        "own recogniser and, if one was given, by a Whisper that knows nothing of codes.</p>"
        f'<div class="scroll">{table(head, body)}</div>'
        f'<div class="figures">{"".join(facts)}</div>{_samples(demo)}'
    )


def _samples(demo: VoiceDemo) -> str:
    folder = demo.path("quality", "audio")
    names = sorted({path.name.split(".")[0] for path in folder.glob("*.real.flac")})[:_SHOWN]
    cards = []
    for name in names:
        players = "".join(
            f'<p class="note">{escape(title)}</p>{_player(folder / f"{name}.{row}.flac")}'
            for row, title in _ROWS.items()
        )
        cards.append(f'<div class="card">{players}</div>')
    return f'<div class="grid">{"".join(cards)}</div>'


def _answers(report: Mapping[str, Any]) -> str:
    chat = report["chat"]
    columns = [(f"fine-tuned, {mode}", found) for mode, found in chat["modes"].items()]
    columns.append(("pre-trained only", chat["pretrained"]))
    pictures = []
    for direction, title in (("s2t", "Written answers"), ("s2s", "Spoken answers, as heard")):
        present = [(name, found[direction]) for name, found in columns if direction in found]
        kinds = list(present[0][1])
        head = [("asked", ""), *((name, "n") for name, _ in present), ("n", "n")]
        body = [
            [
                (escape(_KINDS.get(kind, kind)), ""),
                *((_share(figures.get(kind)), "n") for _, figures in present),
                (str(present[0][1][kind]["n"]), "n"),
            ]
            for kind in kinds
        ]
        pictures.append(f'<h3>{title}</h3><div class="scroll">{table(head, body)}</div>')
    return (
        "<p>Questions about held-out stories, and about facts that stand in the text corpus alone. "
        "Text: the answer is written. Direct: spoken. Guided: written, then spoken. Streaming: 13 "
        "text tokens and 26 of speech by turns. ± is one standard error; in brackets what "
        "guessing would have got: of two endings one half, where it comes nearer to one.</p>"
        f"{''.join(pictures)}{bars_table(report)}"
    )


def _share(figure: Mapping[str, float] | None) -> str:
    if figure is None:  # the pre-trained model has no second turn
        return "–"
    measured = f"{percent(figure['accuracy'], 0)} ± {100 * figure['stderr']:.0f}"
    return f"{measured} ({percent(figure['chance'], 0)})"


def _latency(report: Mapping[str, Any]) -> str:
    names = {
        "tokenise_s": "question to codes",
        "prefill_s": "reading the question",
        "first_tokens_s": "first tokens",
        "first_decode_s": "first sound of them",
        "first_text_s": "until text",
        "first_audio_s": "until sound",
    }
    found = report["latency"]
    rows = [
        (title, found[key], f"{found[key]:.2f} s", "text")
        for key, title in names.items()
        if found.get(key) is not None
    ]
    if not rows:
        return ""
    factor = report["realtime_factor"]
    note = f" {factor:.2f} seconds of work a second of sound." if factor is not None else ""
    return (
        f'<div class="grid"><figure class="card">'
        f"{charts.horizontal_bars(rows, 'Seconds until the answer')}"
        f"<figcaption>Medians over the questions, mode {HEADLINE_MODE}, on half of "
        f"the cores while another stage has the others.{note}</figcaption>"
        "</figure></div>"
    )
