"""The report page: one self-contained HTML file from the figures and samples of a run."""

from collections.abc import Sequence
from pathlib import Path

from examples.quickstart import sections, stage_sections
from examples.quickstart.page_data import PageData

_SECTIONS = [
    ("results", "What it learned", sections.results),
    ("listen", "Listen", sections.listen),
    ("tokenizer", "Speech as codes", stage_sections.tokenizer),
    ("text-to-token", "Codes without a voice", stage_sections.text_to_token),
    ("documents", "What the model read", stage_sections.documents),
    ("training", "Training", stage_sections.training),
    ("answers", "Spoken questions", stage_sections.answers),
    ("time", "Time and machine", stage_sections.time_and_machine),
]


def build_page(data: PageData) -> str:
    """The page as HTML. Style, pictures and audio are inside; nothing is fetched."""
    shown = [(key, title, make(data)) for key, title, make in _SECTIONS]
    title = "megatron_speech: the whole chain"
    return html_page(title, sections.opening(data), shown, sections.closing())


def html_page(title: str, opening: str, parts: Sequence[tuple[str, str, str]], closing: str) -> str:
    """One self-contained page; of `parts`, (anchor, heading, body), those with a body are shown."""
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    shown = [part for part in parts if part[2]]
    links = "".join(f'<a href="#{key}">{heading}</a>' for key, heading, _ in shown)
    bodies = "".join(
        f'<section id="{key}"><h2>{heading}</h2>{body}</section>' for key, heading, body in shown
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head><body><main>"
        f"{opening}<nav>{links}</nav>{bodies}{closing}</main></body></html>\n"
    )
