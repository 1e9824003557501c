"""Tables of the report page, and how numbers are written there."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

_RULES = {"total": "total", "per_token": "per token", "pmi": "PMI"}
_MODES = {"t2t": "T→T", "s2t": "S→T", "s2s": "S→S", "t2s": "T→S"}
_QA_ROWS = 8


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage, or a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.{digits}f}%"


def thousands(value: float) -> str:
    """1234567 as 1.2M, 12345 as 12,345."""
    return f"{value / 1e6:.1f}M" if value >= 1e6 else f"{value:,.0f}"


def seconds_text(seconds: float) -> str:
    """Seconds, or minutes and seconds."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def table(head: list[tuple[str, str]], rows: list[list[tuple[str, str]]]) -> str:
    """Rows of (html, css class) under a head of (text, css class)."""
    top = "".join(f'<th class="{css}">{escape(name)}</th>' for name, css in head)
    body = "".join(
        "<tr>" + "".join(f'<td class="{css}">{cell}</td>' for cell, css in row) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def rules_table(evaluation: Mapping[str, Any]) -> str:
    """Accuracy by task, direction and arm under the three rules; the headline rule in bold."""
    head = [("task", ""), ("direction", ""), ("", ""), ("n", "n")]
    head += [(name, "n") for name in _RULES.values()]
    rows = []
    for part, directions in evaluation["model"]["cloze"].items():
        for direction in directions:
            for arm in ("model", "control"):
                result = evaluation[arm]["cloze"][part][direction]
                cells = [(part, ""), (_MODES[direction], ""), (arm, ""), (str(result["n"]), "n")]
                for rule in _RULES:
                    measured = result["rules"][rule]
                    shown = f"{100 * measured['accuracy']:.1f} ± {100 * measured['stderr']:.1f}"
                    css = "n headline-rule" if rule == result["rule"] else "n"
                    cells.append((shown, css))
                rows.append(cells)
    for arm in ("model", "control"):
        for part, directions in evaluation[arm].get("cascade", {}).items():
            found = directions["s2t"]
            shown = f"{100 * found['accuracy']:.1f} ± {100 * found['stderr']:.1f}"
            place = [(part, ""), ("cascade", ""), (arm, ""), (str(found["n"]), "n")]
            rows.append([*place, (shown, "n headline-rule"), ("", ""), ("", "")])
    note = (
        '<p class="note">total = log p(ending | context); per token = total divided by the tokens '
        "of the ending; PMI = total − log p(ending). Bold is the headline rule, fixed before any "
        "result: total for written endings, PMI for spoken ones. The cascade "
        "reads the spoken context by the speech tokenizer's recogniser and goes on in text. "
        "Accuracy ± standard error, %.</p>"
    )
    return table(head, rows) + note


def bars_table(report: Mapping[str, Any]) -> str:
    """What was asked of this run, what came, and whether it met it."""
    bars = report.get("bars", [])
    if not bars:
        return '<p class="note">No targets apply here: the run is too short, or on other text.</p>'
    rows = [
        [
            (escape(bar["name"]), ""),
            (escape(bar["wanted"]), "n"),
            (escape(bar["value"]), "n"),
            ("met", "n met") if bar["met"] else ("falls short", "n short"),
        ]
        for bar in bars
    ]
    met = sum(bar["met"] for bar in bars)
    head = [("what was asked", ""), ("bar", "n"), ("measured", "n"), (f"{met} of {len(bars)}", "n")]
    return table(head, rows)


def qa_table(evaluation: Mapping[str, Any]) -> str:
    """Shares answered by arm and mode, and some answers of the model."""
    qa = evaluation["model"].get("qa", {})
    if not qa:
        return ""
    part, directions = next(iter(qa.items()))
    head = [("", ""), *((_MODES[direction], "n") for direction in directions)]
    rows = []
    for arm in ("model", "control"):
        found = evaluation[arm].get("qa", {}).get(part, {})
        cells = [
            (f"{percent(found[d]['accuracy'])} ± {100 * found[d]['stderr']:.1f}", "n")
            for d in directions
            if d in found
        ]
        rows.append([(arm, ""), *cells])
    spoken = [direction for direction in ("s2t", "s2s") if direction in directions]
    samples = {direction: directions[direction]["samples"] for direction in spoken}
    count = min((len(found) for found in samples.values()), default=0)
    sample_rows = []
    for index in range(0, count, max(1, -(-count // _QA_ROWS))):
        asked = samples[spoken[0]][index]
        row = [(escape(asked["question"]), ""), (escape(", ".join(asked["references"])), "")]
        for direction in spoken:
            found = samples[direction][index]
            css = "met" if found["right"] else ""
            row.append((escape(found["answer"] or "(nothing)"), css))
        sample_rows.append(row)
    sample_head = [("question, spoken", ""), ("answer wanted", "")]
    sample_head += [(f"model, {_MODES[direction]}", "") for direction in spoken]
    return table(head, rows) + table(sample_head, sample_rows)


def settings_table(report: Mapping[str, Any], key: str) -> str:
    """Names and values of one part of the report."""
    rows = []
    for name, value in report.get(key, {}).items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}"
                              for k, v in value.items())  # fmt: skip
        elif isinstance(value, float):
            value = f"{value:,.4g}"
        rows.append([(escape(name.replace("_", " ")), ""), (escape(str(value)), "n")])
    return table([("", ""), ("", "n")], rows) if rows else ""
