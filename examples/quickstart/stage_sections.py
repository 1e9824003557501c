"""Sections about the stages of the chain, as HTML; empty where there is nothing to show."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from examples.quickstart import charts
from examples.quickstart.page_data import PageData
from examples.quickstart.tables import (
    percent,
    qa_table,
    seconds_text,
    settings_table,
    thousands,
)
from megatron_speech.io.rejected import describe_counts

_TEST_SETS = {
    "": "held-out sentences",
    "_held_out_voice": "held-out voice",
    "_windows": "word windows",
}
"""Ends of the names of the speech tokenizer's figures, and what they are measured on."""


def figure(value: str, caption: str, css: str = "") -> str:
    """One number with its caption."""
    return f'<div class="figure {css}"><b>{escape(value)}</b>{escape(caption)}</div>'


def tokenizer(data: PageData) -> str:
    """Error rates and the use of the codebook."""
    facts = data.report["speech_tokenizer"]
    kinds = thousands(facts["num_codes"])
    shown = []
    for suffix, place in _TEST_SETS.items():
        key, bare = f"wer{suffix}" if suffix else "wer_vq", facts.get(f"wer_no_vq{suffix}")
        shown.append(figure(percent(facts[key]), f"word errors, {place}", "speech"))
        if bare is not None:
            shown.append(figure(percent(bare), f"{place}, the same recipe without the codebook"))
    for suffix, place in list(_TEST_SETS.items())[:2]:
        used, perplexity = facts[f"codebook_usage{suffix}"], facts[f"perplexity{suffix}"]
        shown.append(figure(percent(used, 0), f"of {kinds} codes in use, {place}"))
        shown.append(figure(f"{perplexity:.0f}", f"perplexity of the codes, {place}"))
    histogram = charts.usage_histogram(data.code_counts, "How often each code occurs")
    curves = _curves(
        data, ("speech_tokenizer",), "asr loss", {"speech_tokenizer": ("ASR", "model")}
    )
    return (
        "<p>A Whisper encoder with a codebook in the middle, trained to recognise speech through "
        "it. Word errors are counted on text read back from the codes alone.</p>"
        f'<div class="figures">{"".join(shown)}</div><div class="grid">'
        f'<figure class="card"><h3>Use of the codebook</h3>{histogram}<figcaption>Share of all '
        "codes in the training speech, codes sorted by frequency.</figcaption></figure>"
        f"{curves}</div>"
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
    note = (
        ""
        if own is None
        else f"<p>Word errors of the codes made for your text: {percent(own)}.</p>"
    )
    names = {"text_to_token": ("", "third")}
    curve = _curves(data, ("text_to_token",), "speech loss", names, "Loss on codes")
    return (
        "<p>A small language model writes the codes that a voice would have produced, straight "
        "from text and without any audio. The recogniser should read them as well as real codes. "
        "Windows are runs of words cut anywhere, as the interleaver cuts them; they start and "
        'stop in the middle of sentences and are harder for both.</p><div class="grid">'
        f'<figure class="card"><h3>Word errors</h3>{picture}<figcaption>Read back from the codes '
        f"by the speech tokenizer's recogniser.</figcaption></figure>{curve}</div>{note}"
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
        figure(percent(facts["wer"]), f"word errors, read back from {_spans(facts)}", "speech"),
    ]
    rejected = describe_counts(facts["rejected"])
    return (
        "<p>Spans of words, their lengths drawn from a Poisson distribution of mean 10 and cut "
        "anywhere, are spoken until three words in ten are. The last span of a document keeps its "
        "length, which counts where documents are short. The model sees codes where the words "
        "below are coloured, never the words themselves. Spans whose codes were rejected, and that "
        f"stayed text: {escape(rejected)}.</p>"
        f'<div class="figures">{"".join(figures)}</div><div class="card">{"".join(shown)}</div>'
    )


def _spans(facts: Mapping[str, Any]) -> str:
    n = facts.get("wer_n")
    return "the spans" if n is None else f"{thousands(n)} spans"


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
        "<p>Both arms were pre-trained by Megatron-Core on the same number of tokens; losses are "
        "in nats per token, by the modality of the token predicted. The validation documents are "
        "the same for both; the training curves are each arm's own blend and not to be compared by "
        "height."
        f'</p><div class="figures">{"".join(figures)}</div>'
        f'<div class="grid">{"".join(pictures)}</div>{settings_table(data.report, "blends")}'
    )


def answers(data: PageData) -> str:
    """Closed-book questions, shown and not judged."""
    table = qa_table(data.report["evaluation"])
    if not table:
        return ""
    where = (
        "StoryWorld's corpus, which your text replaced in this run: the model has not read them."
        if data.report["text"]
        else "the text corpus only and were never spoken in training. At this size few facts cross "
        "from text to speech: shown for what it is, with no bar."
    )
    return f"<p>Closed-book questions about facts that stand in {where}</p>{table}"


def time_and_machine(data: PageData) -> str:
    """Seconds of each stage, the machine, the settings."""
    return time_table(data.report)


def time_table(report: Mapping[str, Any]) -> str:
    """The same, of any demo's report."""
    seconds = report["seconds"]
    rows = [(name.replace("_", " "), s, seconds_text(s), "text") for name, s in seconds.items()]
    picture = charts.horizontal_bars(rows, "Seconds of each stage")
    return (
        f'<div class="grid"><figure class="card"><h3>Stages</h3>{picture}<figcaption>'
        f"{seconds_text(report['seconds_in_all'])} in all, where some ran side by side."
        "</figcaption></figure>"
        f'<div class="card"><h3>Machine</h3>{settings_table(report, "machine")}</div></div>'
        "<details><summary>Settings of this run</summary>"
        f"{settings_table(report, 'settings')}</details>"
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
