"""The report page: one self-contained HTML file from the figures and samples of a run."""

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
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    shown = [(key, title, make(data)) for key, title, make in _SECTIONS]
    shown = [(key, title, body) for key, title, body in shown if body]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in shown)
    bodies = "".join(
        f'<section id="{key}"><h2>{title}</h2>{body}</section>' for key, title, body in shown
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>megatron_speech: the whole chain</title><style>{style}</style></head><body><main>"
        f"{sections.opening(data)}<nav>{links}</nav>{bodies}{sections.closing(data)}"
        "</main></body></html>\n"
    )
