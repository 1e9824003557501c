"""The page of a run on real models. Style, pictures and audio are inside; nothing is fetched."""

from html import escape

from examples.quickstart.page import html_page
from examples.quickstart.tables import percent, thousands
from examples.real import sections
from examples.real.report import RealPage

_SECTIONS = [
    ("results", "What it understands", sections.results),
    ("samples", "Before and after", sections.samples),
    ("listen", "Listen", sections.listen),
    ("hearing", "What the codes keep", sections.word_errors),
    ("passage", "What the model read", sections.passage),
    ("training", "Training", sections.training),
    ("material", "Material and licences", sections.material),
    ("time", "Time and machine", sections.time),
]


def build_page(data: RealPage) -> str:
    """The page as HTML; parts without anything to show are left out."""
    shown = [(key, title, make(data)) for key, title, make in _SECTIONS]
    closing = (
        "<footer>The same figures, for programs: <code>report.json</code> beside this page. "
        "Made by <code>make demo-real</code>; <code>docs/real_demo.md</code> says how to run it on "
        "models and recordings of your own.</footer>"
    )
    return html_page("megatron_speech: real models", _opening(data), shown, closing)


def _opening(data: RealPage) -> str:
    report, head = data.report, data.report["headline"]
    names = report["materials"]
    smoke = (
        '<p class="note">A smoke run: every stage worked for a few steps only, so nothing was '
        "learned. It shows that the parts fit the real weights.</p>"
        if report["size"] == "smoke"
        else ""
    )
    learned = head["above_chance_stderrs"] >= 3 and head["gain"] > 2 * head["gain_stderr"]
    title = (
        "A released language model learns to listen"
        if learned
        else "A released language model that does not listen yet"
    )
    base, model, control = (head[arm] for arm in ("base", "model", "control"))
    finding = (
        f"Hearing a passage of a document it never read, {escape(names['base'])} picks the "
        f"sentence that follows {_share(model)} of the time after {thousands(report['tokens'])} "
        f"tokens with interleaved documents. Before: {_share(base)}. With as many tokens and no "
        f"interleaved documents: {_share(control)}. Chance is 50%; {model['n']} items, ± is one "
        "standard error."
    )
    return (
        f'<header><p class="kicker">megatron_speech · real models · {escape(report["size"])} run'
        f'</p><h1>{title}</h1><p class="lead">{finding}</p>'
        f"{sections.caveats(report)}{smoke}</header>"
    )


def _share(cell: dict) -> str:
    return f"{percent(cell['accuracy'], 0)} (± {100 * cell['stderr']:.0f})"
