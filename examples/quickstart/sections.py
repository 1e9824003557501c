"""Opening, results, recordings and closing of the report page, as HTML."""

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from examples.quickstart import charts
from examples.quickstart.chain_picture import chain
from examples.quickstart.page_data import PageData, Recording
from examples.quickstart.tables import (
    bars_table,
    percent,
    rules_table,
    seconds_text,
    thousands,
)

_DIRECTIONS = {"t2t": "T→T", "s2t": "S→T", "s2s": "S→S", "t2s": "T→S"}
_PARTS = {"topic": "Topic-StoryCloze", "story": "StoryCloze"}


def opening(data: PageData) -> str:
    """Title, the finding in one sentence, and the chain as a picture."""
    report = data.report
    model = _accuracy(report, "model", "topic", "s2t")
    control = _accuracy(report, "control", "topic", "s2t")
    finding = (
        f"Hearing the beginning of a story, the model picks the written ending that fits "
        f"{percent(model, 0)} of the time. An equal model that had text and transcribed speech in "
        f"place of interleaved documents: {percent(control, 0)}; chance is 50%."
    )
    smoke = (
        '<p class="note">A smoke run: every stage worked for some twenty steps only, so the models '
        "have learned next to nothing. It shows that the parts fit.</p>"
        if report["size"] == "smoke"
        else ""
    )
    total = seconds_text(report["seconds_in_all"])
    heard = report["evaluation"]["model"]["cloze"]["topic"]["s2t"]
    listens = heard["accuracy"] > 0.5 + 3 * heard["stderr"]
    title = "A language model learns to listen" if listens else "A model that does not listen yet"
    return (
        f'<header><p class="kicker">megatron_speech · {escape(report["size"])} run</p>'
        f"<h1>{title}</h1>"
        f'<p class="lead">{finding}</p>{smoke}</header>'
        f'<div class="scroll">{chain(_chain_captions(report))}</div>'
        f'<p class="note">Every box was made on this machine, by the tools and code that run on a '
        f"cluster, in {total}.</p>"
    )


def _chain_captions(report: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    speech, tokenizer = report["speech"], report["speech_tokenizer"]
    world, documents = report["world"], "text_documents" if report["text"] else "documents"
    t2t, mixed, lm = report["text_to_token"], report["interleave"], report["pretraining"]
    return {
        "world": (f"{thousands(world[documents])} documents", world.get("name", "")),
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
        seeds = len(data.report["settings"]["seeds"])
        averaged = f", mean of {seeds} seeds" if seeds > 1 else ""
        pictures.append(
            f'<figure class="card"><h3>{escape(name)}</h3>'
            f"{charts.grouped_bars(groups, ceilings, f'Accuracy on {name}')}"
            f"<figcaption>Accuracy in %, {n} items{averaged}; whiskers are one standard error."
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
    cards = "".join(recording_card(recording) for recording in data.recordings)
    rate = data.report["speech_tokenizer"]["frame_rate_hz"]
    return (
        f"<p>Held-out recordings. Under each waveform are its codes, {rate:g} a second, one colour "
        "each: all that the language model gets to hear. The last line is what the speech "
        "tokenizer's own recogniser reads back from those codes.</p>"
        f'<div class="grid">{cards}</div>'
    )


def recording_card(recording: Recording) -> str:
    """A recording to play, above its codes and what is read from them."""
    seconds = len(recording.samples) / recording.sample_rate_hz
    picture = charts.waveform(recording.samples, recording.codes, f"Waveform of: {recording.text}")
    numbers = " ".join(str(code) for code in recording.codes.tolist())
    source = audio_source(recording.samples, recording.sample_rate_hz)
    return (
        f'<div class="card"><div class="tag"><span>{escape(recording.kind)}</span>'
        f"<span>{escape(recording.speaker)} · {seconds:.1f} s</span></div>{picture}"
        f'<audio controls preload="none" src="{source}"></audio>'
        f'<p class="said">{escape(recording.text)}</p>'
        f'<p class="read">read back: {_marked_reading(recording.text, recording.reading)}</p>'
        f"<details><summary>{len(recording.codes)} codes</summary>"
        f'<div class="codes">{numbers}</div></details></div>'
    )


def audio_source(samples: np.ndarray, sample_rate_hz: int) -> str:
    """Sound (samples,) as a FLAC inside the page."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate_hz, format="FLAC")
    return "data:audio/flac;base64," + base64.b64encode(buffer.getvalue()).decode()


def _marked_reading(said: str, read: str) -> str:
    """The reading with words that were not said marked."""
    from difflib import SequenceMatcher

    def bare(word: str) -> str:
        return word.lower().strip(".,;:?!\"'")

    words = read.split()
    matcher = SequenceMatcher(None, [bare(w) for w in said.split()], [bare(w) for w in words])
    right = {
        n for _, start, size in matcher.get_matching_blocks() for n in range(start, start + size)
    }
    marked = [
        escape(word) if number in right else f'<span class="wrong">{escape(word)}</span>'
        for number, word in enumerate(words)
    ]
    return " ".join(marked) or "(nothing)"


def closing() -> str:
    """Where the figures are."""
    return (
        "<footer>The same figures, for programs: <code>report.json</code> beside this page. After "
        "arXiv 2411.17607, Scaling Speech-Text Pre-training with Synthetic Interleaved Data."
        "</footer>"
    )
