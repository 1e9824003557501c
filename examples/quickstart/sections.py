"""Sections of the report page. Each returns HTML, or an empty string when it has nothing to show."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from examples.quickstart import charts
from examples.quickstart.chain_picture import chain
from examples.quickstart.page_data import PageData, Recording
from examples.quickstart.tables import (
    bars_table,
    percent,
    qa_table,
    rules_table,
    seconds_text,
    settings_table,
    thousands,
)

_DIRECTIONS = {"t2t": "T→T", "s2t": "S→T", "s2s": "S→S", "t2s": "T→S"}
_PARTS = {"topic": "Topic-StoryCloze", "story": "StoryCloze"}


def figure(value: str, caption: str, css: str = "") -> str:
    """One number with its caption."""
    return f'<div class="figure {css}"><b>{escape(value)}</b>{escape(caption)}</div>'


def opening(data: PageData) -> str:
    """Title, the finding in one sentence, and the chain as a picture."""
    report = data.report
    model = _accuracy(report, "model", "topic", "s2t")
    control = _accuracy(report, "control", "topic", "s2t")
    finding = (
        f"Hearing the beginning of a story, the model picks the written ending that fits "
        f"{percent(model, 0)} of the time. An equal model that never saw speech and text in one "
        f"document: {percent(control, 0)}; chance is 50%."
    )
    smoke = (
        '<p class="note">A smoke run: every stage worked for some twenty steps only, so the models '
        "have learned next to nothing. It shows that the parts fit.</p>"
        if report["size"] == "smoke"
        else ""
    )
    total = seconds_text(sum(report["seconds"].values()))
    return (
        f'<header><p class="kicker">megatron_speech · {escape(report["size"])} run</p>'
        "<h1>A language model learns to listen</h1>"
        f'<p class="lead">{finding}</p>{smoke}</header>'
        f'<div class="scroll">{chain(_chain_captions(report))}</div>'
        f'<p class="note">Every box was made on this machine, by the tools and code that run on a '
        f"cluster, in {total}.</p>"
    )


def _chain_captions(report: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    speech, tokenizer = report["speech"], report["speech_tokenizer"]
    t2t, mixed, lm = report["text_to_token"], report["interleave"], report["pretraining"]
    return {
        "world": (
            f"{thousands(report['world']['documents'])} documents",
            report["world"].get("name", ""),
        ),
        "audio": (
            f"{thousands(speech['utterances'])} utterances",
            f"{speech['hours']:.1f} h, {speech['voices']} voices",
        ),
        "tokenizer": (
            f"{tokenizer['frame_rate_hz']:g} codes a second",
            f"{percent(tokenizer['wer_vq'])} word errors",
        ),
        "text_to_token": ("text in, codes out", f"{percent(t2t['wer'])} word errors"),
        "codes": (
            f"{thousands(tokenizer['num_codes'])} kinds",
            f"{percent(tokenizer['codebook_usage'], 0)} in use",
        ),
        "interleave": (
            f"{thousands(mixed['documents'])}, with",
            f"{percent(mixed['speech_word_fraction'], 0)} of words spoken",
        ),
        "pretrain": (
            f"{lm['parameters'] / 1e6:.1f}M parameters",
            f"{lm['tokens'] / 1e6:.1f}M tokens",
        ),
        "evaluate": ("four directions,", "with a control"),
    }


def _accuracy(report: Mapping[str, Any], arm: str, part: str, direction: str) -> float:
    return report["evaluation"][arm]["cloze"][part][direction]["accuracy"]


def results(data: PageData) -> str:
    """Accuracy of model and control in every direction, with the rules and the bars."""
    evaluation = data.report["evaluation"]
    pictures = []
    for part, directions in evaluation["model"]["cloze"].items():
        groups = []
        for direction in [d for d in _DIRECTIONS if d in directions]:
            pair = [
                charts.Bar(
                    label=f"{arm}, {_DIRECTIONS[direction]}",
                    value=evaluation[arm]["cloze"][part][direction]["accuracy"],
                    stderr=evaluation[arm]["cloze"][part][direction]["stderr"],
                    css=arm,
                )
                for arm in ("model", "control")
            ]
            groups.append((_DIRECTIONS[direction], pair))
        ceiling = evaluation["model"].get("cascade", {}).get(part, {}).get("s2t")
        ceilings = {_DIRECTIONS["s2t"]: ceiling["accuracy"]} if ceiling else {}
        name, n = _PARTS.get(part, part), next(iter(directions.values()))["n"]
        pictures.append(
            f'<figure class="card"><h3>{escape(name)}</h3>'
            f"{charts.grouped_bars(groups, ceilings, f'Accuracy on {name}')}"
            f"<figcaption>Accuracy in %, {n} items; whiskers are one standard error."
            "</figcaption></figure>"
        )
    return (
        "<p>Each item is the beginning of a story with two endings; the model finds one of them "
        "likelier. In Topic-StoryCloze the wrong ending belongs to another story; in StoryCloze it "
        "fits the topic and not the sense. S→T means that the beginning is heard and the ending "
        "read, and so on. The control has the same size, saw as many tokens and as much speech, "
        "but text and transcribed speech in place of interleaved documents.</p>"
        '<div class="legend"><span><i class="model"></i>trained on interleaved documents</span>'
        "<span><i></i>control</span><span><i class='ceiling'></i>transcribe, then read</span>"
        "<span><i class='chance'></i>chance</span></div>"
        f'<div class="grid">{"".join(pictures)}</div>'
        f"<details><summary>All three scoring rules</summary>{rules_table(evaluation)}</details>"
        f"{bars_table(data.report)}"
    )


def listen(data: PageData) -> str:
    """Recordings with waveform, codes, and what the tokenizer reads from the codes."""
    if not data.recordings:
        return ""
    cards = "".join(_recording_card(recording) for recording in data.recordings)
    return (
        "<p>Held-out recordings. Under each waveform are its codes, 12.5 a second, one colour each: "
        "all that the language model gets to hear. The last line is what the speech tokenizer's "
        f'own recogniser reads back from those codes.</p><div class="grid">{cards}</div>'
    )


def _recording_card(recording: Recording) -> str:
    seconds = len(recording.samples) / recording.sample_rate_hz
    picture = charts.waveform(recording.samples, recording.codes, f"Waveform of: {recording.text}")
    numbers = " ".join(str(code) for code in recording.codes.tolist())
    return (
        f'<div class="card"><div class="tag"><span>{escape(recording.kind)}</span>'
        f"<span>{escape(recording.speaker)} · {seconds:.1f} s</span></div>{picture}"
        f'<audio controls preload="none" src="{_audio_source(recording)}"></audio>'
        f'<p class="said">{escape(recording.text)}</p>'
        f'<p class="read">read back: {_marked_reading(recording.text, recording.reading)}</p>'
        f"<details><summary>{len(recording.codes)} codes</summary>"
        f'<div class="codes">{numbers}</div></details></div>'
    )


def _audio_source(recording: Recording) -> str:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, recording.samples, recording.sample_rate_hz, format="FLAC")
    return "data:audio/flac;base64," + base64.b64encode(buffer.getvalue()).decode()


def _marked_reading(said: str, read: str) -> str:
    """The reading with words that were not said marked."""
    from difflib import SequenceMatcher

    def bare(word: str) -> str:
        return word.lower().strip(".,;:?!\"'")

    words = read.split()
    matcher = SequenceMatcher(None, [bare(w) for w in said.split()], [bare(w) for w in words])
    right = {n for _, start, size in matcher.get_matching_blocks() for n in range(start, start + size)}
    marked = [
        escape(word) if number in right else f'<span class="wrong">{escape(word)}</span>'
        for number, word in enumerate(words)
    ]
    return " ".join(marked) or "(nothing)"


def tokenizer(data: PageData) -> str:
    """Error rates and the use of the codebook."""
    facts = data.report["speech_tokenizer"]
    shown = [
        figure(percent(facts["wer_vq"]), "word errors, held-out sentences", "speech"),
        figure(percent(facts["wer_held_out_voice"]), "word errors, held-out voice", "speech"),
    ]
    if facts.get("wer_no_vq") is not None:
        shown.append(figure(percent(facts["wer_no_vq"]), "the same recipe without the codebook"))
    used = percent(facts["codebook_usage"], 0)
    shown.append(figure(used, f"of {thousands(facts['num_codes'])} codes in use"))
    shown.append(figure(f"{facts['perplexity']:.0f}", "perplexity of the codes"))
    histogram = charts.usage_histogram(data.code_counts, "How often each code occurs")
    curves = _curves(data, ("speech_tokenizer",), "asr loss", {"speech_tokenizer": ("ASR", "model")})
    return (
        "<p>A Whisper encoder with a codebook in the middle, trained to recognise speech through "
        "it. Word errors are counted on text read back from the codes alone.</p>"
        f'<div class="figures">{"".join(shown)}</div><div class="grid">'
        f'<figure class="card"><h3>Use of the codebook</h3>{histogram}<figcaption>Share of all '
        f"codes in the training speech, codes sorted by frequency.</figcaption></figure>{curves}</div>"
    )


def text_to_token(data: PageData) -> str:
    """Word errors of made-up codes beside those of real speech."""
    facts = data.report["text_to_token"]
    rows = []
    for name, suffix in (("sentences", ""), ("windows", "_windows")):
        made, real = facts.get(f"wer{suffix}"), facts.get(f"wer_real_codes{suffix}")
        if made is not None and real is not None:
            rows.append((f"{name}, generated", made, percent(made), "text"))
            rows.append((f"{name}, real speech", real, percent(real), "speech"))
    picture = charts.horizontal_bars(rows, "Word error rates of generated and real codes")
    own = facts.get("wer_user_text")
    names = {"text_to_token": ("", "third")}
    curve = _curves(data, ("text_to_token",), "speech loss", names, "Loss on codes")
    note = f"<p>Word errors of the codes made for your text: {percent(own)}.</p>" if own else ""
    return (
        "<p>A small language model writes the codes that a voice would have produced, straight from "
        "text and without any audio. The recogniser should read them as well as real codes. "
        "Windows are runs of words cut anywhere, as the interleaver cuts them; they start and stop "
        f'in the middle of sentences and are harder for both.</p><div class="grid">'
        f'<figure class="card"><h3>Word errors</h3>{picture}<figcaption>Read back from the codes by '
        f"the speech tokenizer's recogniser.</figcaption></figure>{curve}</div>{note}"
    )


def documents(data: PageData) -> str:
    """Interleaved documents, spoken spans coloured."""
    if not data.documents:
        return ""
    facts = data.report["interleave"]
    shown = []
    for segments in data.documents:
        runs = [
            f'<span class="span">{escape(s.text)} <small>{s.num_codes} codes</small></span>'
            if s.num_codes
            else escape(s.text)
            for s in segments
        ]
        shown.append(f'<p class="document">{" ".join(runs)}</p>')
    figures = [
        figure(thousands(facts["documents"]), "documents"),
        figure(percent(facts["speech_word_fraction"]), "of their words became speech", "speech"),
        figure(thousands(facts["speech_tokens"]), "speech tokens", "speech"),
        figure(thousands(facts["text_tokens"]), "text tokens", "text"),
    ]
    return (
        f"<p>{escape(facts.get('explanation', ''))} The model sees codes where the words below are "
        "coloured, never the words themselves.</p>"
        f'<div class="figures">{"".join(figures)}</div><div class="card">{"".join(shown)}</div>'
    )


def training(data: PageData) -> str:
    """Loss curves of model and control, by modality."""
    facts, names = data.report["pretraining"], {"model": ("model", "model"),
                                                "control": ("control", "control")}  # fmt: skip
    pictures = [
        _curves(data, ("control", "model"), f"{modality} loss", names)
        for modality in ("text", "speech")
    ]
    mean = {
        "text": (facts["text_loss"], facts["control"]["text_loss"]),
        "speech": (facts["speech_loss"], facts["control"]["speech_loss"]),
    }
    figures = [
        figure(f"{value:.2f}", f"{modality} loss in validation, {arm}", modality)
        for modality, pair in mean.items()
        for value, arm in zip(pair, ("model", "control"), strict=True)
        if value is not None
    ]
    return (
        "<p>Both arms were pre-trained by Megatron-Core on the same number of tokens; losses are in "
        "nats per token, by the modality of the token predicted. The validation documents are the "
        "same for both; the training curves are each arm's own blend and not to be compared by "
        "height."
        f'</p><div class="figures">{"".join(figures)}</div>'
        f'<div class="grid">{"".join(pictures)}</div>{settings_table(data.report, "blends")}'
    )


def _curves(
    data: PageData,
    runs: Sequence[str],
    loss: str,
    names: Mapping[str, tuple[str, str]],
    title: str = "",
) -> str:
    series = [
        (*names[run], smooth(data.curves[run][loss]))
        for run in runs
        if data.curves.get(run, {}).get(loss)
    ]
    if not series:
        return ""
    title = title or loss.capitalize().replace("Asr", "ASR")
    return (
        f'<figure class="card"><h3>{escape(title)}</h3>{charts.line_chart(series, title)}'
        "<figcaption>Training loss, averaged over neighbouring steps.</figcaption></figure>"
    )


def smooth(points: Sequence[tuple[float, float]], pieces: int = 90) -> list[tuple[float, float]]:
    """At most `pieces` points, each the mean of its neighbours."""
    values = np.asarray(points, dtype=float)
    chunks = np.array_split(values, min(len(values), pieces))
    return [(float(chunk[-1, 0]), float(chunk[:, 1].mean())) for chunk in chunks]


def answers(data: PageData) -> str:
    """Closed-book questions, shown and not judged."""
    table = qa_table(data.report["evaluation"])
    if not table:
        return ""
    return (
        "<p>Closed-book questions about facts that stand in the text corpus only and were never "
        "spoken in training. At this size few facts cross from text to speech: shown for what it "
        f"is, with no bar.</p>{table}"
    )


def time_and_machine(data: PageData) -> str:
    """Seconds of each stage, the machine, the settings."""
    seconds = data.report["seconds"]
    rows = [(name.replace("_", " "), s, seconds_text(s), "text") for name, s in seconds.items()]
    picture = charts.horizontal_bars(rows, "Seconds of each stage")
    return (
        f'<div class="grid"><figure class="card"><h3>Stages</h3>{picture}<figcaption>'
        f"{seconds_text(sum(seconds.values()))} in all.</figcaption></figure>"
        f'<div class="card"><h3>Machine</h3>{settings_table(data.report, "machine")}</div></div>'
        "<details><summary>Settings of this run</summary>"
        f"{settings_table(data.report, 'settings')}</details>"
    )


def closing(data: PageData) -> str:
    """Where the figures are."""
    return (
        "<footer>The same figures, for programs: <code>report.json</code> beside this page. After "
        "arXiv 2411.17607, Scaling Speech-Text Pre-training with Synthetic Interleaved Data."
        "</footer>"
    )
