"""Sections of the page of a run on real models, as HTML; empty where there is nothing to show."""

from collections.abc import Mapping
from html import escape
from typing import Any

from examples.quickstart import charts
from examples.quickstart.sections import audio_source, recording_card
from examples.quickstart.stage_sections import figure, smooth, time_table
from examples.quickstart.tables import bars_table, percent, table, thousands
from examples.real.model_stages import BASE
from examples.real.report import HEARD, RealPage, text_loss_rise
from examples.real.run import NEW_VOICE, STORY, TOPIC, TRAINED_VOICES
from examples.real.sizes import ARMS
from megatron_speech.io.rejected import describe_counts

_DIRECTIONS = {"t2t": "T→T", "s2t": "S→T", "s2s": "S→S", "t2s": "T→S"}
_TASKS = {TOPIC: "topic: the wrong sentence is of another document",
          STORY: "story: the wrong sentence is of the same document"}  # fmt: skip
_NAMES = {"model": "interleaved", "control": "control", BASE: "untouched base"}
_CSS = {"model": "model", "control": "control", BASE: "text"}
_SETS = {TRAINED_VOICES: "espeak-ng, voices of the training", NEW_VOICE: "espeak-ng, a new voice"}
_SAMPLE_RATE_HZ = 16_000


def results(data: RealPage) -> str:
    """Accuracy of base, control and model in every direction; the curve; what was asked."""
    found = data.report["evaluation"]
    pictures = []
    for task, title in _TASKS.items():
        groups = []
        for direction, name in _DIRECTIONS.items():
            cells = [(arm, found[arm]["cloze"].get(task, {}).get(direction))
                     for arm in (BASE, "control", "model")]  # fmt: skip
            shown = [
                charts.Bar(label=f"{_NAMES[arm]}, {name}", value=cell["accuracy"],
                           stderr=cell["stderr"], css=_CSS[arm])
                for arm, cell in cells if cell
            ]  # fmt: skip
            if shown:
                groups.append((name, shown))
        if not groups:
            continue
        n = next(iter(found["model"]["cloze"][task].values()))["n"]
        pictures.append(
            f'<figure class="card"><h3>{escape(title.capitalize())}</h3>'
            f"{charts.grouped_bars(groups, {}, f'Accuracy, {title}')}"
            f"<figcaption>Accuracy in %, {n} items; whiskers are one standard error."
            "</figcaption></figure>"
        )
    return (
        "<p>Each item is some consecutive sentences of a held-out document and two sentences that "
        "might follow, about equally long; the model finds one of them likelier. S→T means that "
        "the beginning is heard and the sentence read, and so on. T→T of the untouched base says "
        "how hard the items are. Both arms start from the same base and are trained on as many "
        "tokens.</p>"
        '<div class="legend"><span><i class="text"></i>untouched base</span>'
        "<span><i></i>control, no interleaved documents</span>"
        '<span><i class="model"></i>with interleaved documents</span>'
        '<span><i class="chance"></i>chance</span></div>'
        f'<div class="grid">{"".join(pictures)}{_curves(data)}</div>{caveats(data.report)}'
        f"{_losses(data)}"
        f"{bars_table(data.report)}"
    )


def caveats(report: Mapping[str, Any]) -> str:
    """What of the models is not as it was released."""
    named = [note.split(":")[0] for note in report["materials"]["notes"] if "dequantised" in note]
    return "".join(f'<p class="note">Figures are of {escape(name)}.</p>' for name in named)


def _curves(data: RealPage) -> str:
    """S→T and T→S against tokens seen, with the base at 0."""
    pictures = []
    for direction in (HEARD, "t2s"):
        series = []
        for arm, css in (("control", "control"), ("model", "model")):
            points = [
                (point["tokens"], 100 * cell["accuracy"], 100 * cell["stderr"])
                for point in data.report["curve"][arm]
                if (cell := point["cloze"].get(TOPIC, {}).get(direction))
            ]
            series.append((_NAMES[arm], css, points))
        if not any(points for _, _, points in series):
            continue
        values = [value for _, _, points in series for _, value, _ in points]
        bounds = (min(40.0, min(values)), max(80.0, max(values)))
        title = f"{_DIRECTIONS[direction]} on topic items over tokens"
        settings = data.report["settings"]
        pictures.append(
            f'<figure class="card"><h3>{title}</h3>'
            f"{charts.line_chart(series, title, unit='tokens', bounds=bounds, chance=50)}"
            "<figcaption>Accuracy in %, whiskers are one standard error. At 0 the untouched base; "
            f"before the last point {settings['curve_limit']} items at most.</figcaption></figure>"
        )
    return "".join(pictures)


def _losses(data: RealPage) -> str:
    found, imported = data.report["evaluation"], data.report["base"]
    shown = [figure(f"{found[arm]['text_loss']:.3f}", f"text loss, {_NAMES[arm]}", "text")
             for arm in (BASE, *ARMS) if arm in found]  # fmt: skip
    shown.append(figure(f"{100 * text_loss_rise(found):+.1f}%", "of the base's, interleaved"))
    if imported["text_loss"] is not None:
        shown.append(
            figure(f"{imported['text_loss_with_codes'] - imported['text_loss']:+.4f}",
                   f"nats by {imported['added_rows']:,} rows for speech, before any training")
        )  # fmt: skip
    tokens = thousands(found[BASE]["text_loss_tokens"])
    return (
        f'<div class="figures">{"".join(shown)}</div>'
        f'<p class="note">Loss in nats per token on {tokens} tokens of held-out documents.</p>'
    )


def samples(data: RealPage) -> str:
    """Beginnings to hear, and how each model goes on in writing."""
    cards = []
    for number, shown in enumerate(data.report["samples"]):
        sound = data.beginnings[number] if number < len(data.beginnings) else None
        player = "" if sound is None else _player(sound)
        rows = [
            [(escape(_NAMES[arm]), ""),
             *((escape(shown[way].get(arm) or "(nothing)"), "") for way in ("heard", "read"))]
            for arm in (BASE, *ARMS)
        ]  # fmt: skip
        head = [("", ""), ("having heard it", ""), ("having read it", "")]
        cards.append(
            f'<div class="card">{player}<p class="said">{escape(" ".join(shown["context"]))}</p>'
            f'<p class="read">the document goes on: {escape(shown["right"])}</p>'
            f"{table(head, rows)}</div>"
        )
    if not cards:
        return ""
    return (
        "<p>Beginnings of held-out passages. Each model goes on with the likeliest text: once it "
        "was given the codes of the recording alone, once the written words. The untouched base "
        "has rows for codes that nothing has trained.</p>"
        f'<div class="stack">{"".join(cards)}</div>'
    )


def _player(sound: Any) -> str:
    source = audio_source(sound, _SAMPLE_RATE_HZ)
    return f'<audio controls preload="none" src="{source}"></audio>'


def listen(data: RealPage) -> str:
    """Held-out recordings with their codes and what is read from them."""
    if not data.recordings:
        return ""
    rate = data.report["speech_tokenizer"]["frame_rate_hz"]
    cards = "".join(recording_card(recording) for recording in data.recordings)
    return (
        f"<p>Held-out recordings. Under each waveform are its codes, {rate:g} a second: all that "
        "the language model gets to hear. The last line is what the tokenizer's own upper half "
        f'reads back from those codes.</p><div class="grid">{cards}</div>'
    )


def word_errors(data: RealPage) -> str:
    """Word errors by set and language, without and with the codebook; text-to-token beside it."""
    report = data.report
    rows = []
    for name, figures in report["speech_tokenizer"]["sets"].items():
        facts = report["recordings"].get(name)
        kind = "text" if facts is None or not facts["transcribed"] else "text by Whisper"
        language = "en" if facts is None else facts["language"]
        cells = {language: figures, **figures.get("by_language", {})}
        for label, row in cells.items():
            place = _SETS.get(name, name)
            rows.append([
                (escape(place), ""), (escape(label), ""), (kind, ""), (f"{row['words']:,}", "n"),
                *((percent(row.get(f"wer_{reading}")), "n")
                  for reading in ("whisper", "vectors", "codes")),
            ])  # fmt: skip
    left_out = [
        f"{name} ({facts['other_languages']} recordings)"
        for name, facts in report["recordings"].items()
        if facts["other_languages"]
    ]
    note = (
        f'<p class="note">Left out, in languages that {escape(report["materials"]["whisper"])} has '
        f"not learned: {escape(', '.join(left_out))}.</p>"
        if left_out
        else ""
    )
    head = [(name, "") for name in ("recordings", "language", "compared with")]
    head += [(name, "n") for name in ("words", "Whisper as it is", "past the codebook", "codes")]
    made, tokenizer = report["text_to_token"], report["speech_tokenizer"]
    voices = tokenizer["sets"][TRAINED_VOICES]
    facts = [
        figure(percent(voices["codebook_usage"], 0), f"of {thousands(tokenizer['num_codes'])} "
               "codes in use, synthetic voices", "speech"),
        figure(f"{voices['perplexity']:.0f}", "perplexity of the codes"),
        figure(percent(made["made"]["wer"]), "word errors of codes made from text", "text"),
        figure(percent(made["real"]["wer"]), "of those of recordings of the same sentences"),
    ]  # fmt: skip
    return (
        "<p>Word errors of the released Whisper as it is, of the tokenizer past its codebook, and "
        "through it: what lies between the first two is the pool and the training, between the "
        "last two the codebook. Where no text is known, a Whisper's own reading stands in, and "
        "the figures tell how far the others agree with it.</p>"
        f'{table(head, rows)}{note}<div class="figures">{"".join(facts)}</div>'
    )


def passage(data: RealPage) -> str:
    """An interleaved document whose spans can be played."""
    if not data.passage:
        return ""
    facts = data.report["interleave"]
    runs = []
    for segment, sound in data.passage:
        if not segment.num_codes:
            runs.append(escape(segment.text))
            continue
        button = "" if sound is None else _span_player(sound)
        runs.append(
            f'<span class="span">{escape(segment.text.strip())} '
            f"<small>{segment.num_codes} codes</small>{button}</span>"
        )
    figures = [
        figure(thousands(facts["documents"]), "documents"),
        figure(percent(facts["speech_word_fraction"]), "of their words became speech", "speech"),
        figure(thousands(facts["speech_tokens"]), "speech tokens", "speech"),
        figure(thousands(facts["text_tokens"]), "text tokens", "text"),
        figure(percent(facts["wer"]), f"word errors, read back from {facts['wer_n']} spans",
               "speech"),
    ]  # fmt: skip
    return (
        "<p>A training document. Where the words are coloured the model reads codes that "
        "text-to-token made of them, never the words. No decoder belongs to this tokenizer: what "
        "you hear is espeak-ng saying the words, not the codes. Spans whose codes were rejected, "
        f"and that stayed text: {escape(describe_counts(facts['rejected']))}.</p>"
        f'<div class="figures">{"".join(figures)}</div>'
        f'<div class="card"><p class="document">{" ".join(runs)}</p></div>'
    )


def _span_player(sound: Any) -> str:
    source = audio_source(sound, _SAMPLE_RATE_HZ)
    return (
        '<button class="play" title="play" onclick="this.nextElementSibling.play()">▶</button>'
        f'<audio preload="none" src="{source}"></audio>'
    )


def training(data: RealPage) -> str:
    """Loss of the arms, and what each was given."""
    series = [(_NAMES[arm], css, smooth(data.curves[arm]))
              for arm, css in (("control", "control"), ("model", "model"))
              if data.curves.get(arm)]  # fmt: skip
    picture = charts.line_chart(series, "Training loss")
    if not picture:
        return ""
    return (
        f"<p>Each arm was trained on {thousands(data.report['tokens'])} tokens by Megatron-Core. "
        "The losses are each arm's own blend and not to be compared by height; shares of the "
        f'tokens are below.</p><div class="grid"><figure class="card"><h3>Loss</h3>{picture}'
        '<figcaption>In nats per token.</figcaption></figure><div class="card"><h3>Shares</h3>'
        f"{_shares(data.report)}</div></div>"
    )


def _shares(report: Mapping[str, Any]) -> str:
    """Tokens of each kind by arm."""
    blends = report["blends"]
    kinds = list(dict.fromkeys(kind for blend in blends.values() for kind in blend))
    rows = [
        [(kind, ""), *((percent(blend[kind], 0) if kind in blend else "–", "n")
                       for blend in blends.values())]
        for kind in kinds
    ]  # fmt: skip
    return table([("", ""), *((_NAMES[arm], "n") for arm in blends)], rows)


def material(data: RealPage) -> str:
    """What was taken from others, and on which terms."""
    found: Mapping[str, Any] = data.report["materials"]
    named = [("speech tokenizer from", found["whisper"]), ("base model", found["base"]),
             ("texts of recordings without one", found["judge"])]  # fmt: skip
    rows = [[(escape(what), ""), (escape(str(name)), "")] for what, name in named if name]
    notes = "".join(f"<li>{escape(note)}</li>" for note in found["notes"])
    return f"{table([('', ''), ('', '')], rows)}" + (f"<ul>{notes}</ul>" if notes else "")


def time(data: RealPage) -> str:
    """Seconds of each stage, the machine, the settings."""
    return time_table(data.report)
