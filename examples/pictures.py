"""The pictures of the README, from the files of a run.

    python examples/pictures.py --run runs/demo --output docs/pictures
    python examples/pictures.py --run runs/demo --output docs/pictures --chat http://127.0.0.1:8765

interleaved.svg is a document of the run's interleaved dataset, report.png the top of its report
page. With --chat, the address that `make chat` prints, a question is typed into that page, and
chat.png shows the answer. Screenshots need Chromium (apt-get install chromium) and playwright (the
extra `browser`). The README's chart is made by examples/quickstart/pictures.py.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: find this package
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_speech.jobs.starting import starting

with starting(__name__):
    import shutil
    from collections.abc import Callable, Sequence
    from dataclasses import dataclass
    from html import escape
    from typing import Any

    from megatron_speech import cli
    from megatron_speech.datasets.inspect import InspectConfig, Run, inspect
    from megatron_speech.errors import DataError
    from megatron_speech.io.files import write_text

LOOKED_AT = 400
"""Documents of the dataset among which one with several spans is looked for."""
LINE_CHARACTERS, CHARACTER, LINE = 76, 9.0, 50
"""Characters of a line, and sizes in pixels; the font's width is given, whatever the font."""
MOST_WORDS = 45
CODE = 6
"""Width of a code, in pixels."""
SCREEN = {"width": 1000, "height": 660}
STYLE = """
text { font: 15px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #1f2328 }
text.note { font: 13px ui-sans-serif, system-ui, sans-serif; fill: #5d646d }
.span { fill: #fbe0cd; stroke: #c2571a } text.spoken { fill: #8a3a0c } .code { fill: #c2571a }
@media (prefers-color-scheme: dark) {
  text { fill: #e7e5df } text.note { fill: #9aa1aa }
  .span { fill: #4a2b18; stroke: #e88a4f } text.spoken { fill: #ffc49a } .code { fill: #e88a4f } }
"""


@dataclass(frozen=True, kw_only=True)
class PicturesConfig:
    """From what, to where."""

    run: Path
    """Folder of a demo."""
    output: Path
    """Folder for the pictures."""
    chat: str | None = None
    """Address of a chat page that is being served; without one, chat.png is not made."""
    question: str = "Where was it?"
    """What is typed into it."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Words of one line: text (no codes), or a part of a span and its share of the codes."""

    text: str
    column: int
    codes: tuple[int, ...] | None = None


def main(argv: Sequence[str] | None = None) -> None:
    """Make the pictures. Raises DataError where the run has no document to show."""
    config = cli.parse(PicturesConfig, argv, __doc__ or "")
    shown = InspectConfig(vocab=config.run / "vocab", documents=LOOKED_AT)
    documents = inspect(config.run / "interleaved" / "data", shown).documents
    chosen = max(documents, key=_worth_seeing, default=())
    if not any(_worth_seeing(chosen)):
        raise DataError(f"{config.run}: no document with speech; expected an interleaved dataset")
    write_text(config.output / "interleaved.svg", draw_document(chosen))
    page = (config.run / "report.html").resolve().as_uri()
    take_screenshot(page, config.output / "report.png", lambda page: None)
    if config.chat is not None:
        ask = _asking(config.question)
        take_screenshot(config.chat, config.output / "chat.png", ask)


def _worth_seeing(runs: Sequence[Run]) -> tuple[int, int]:
    """Spans (three are enough) and codes of a document that fits into a picture."""
    codes = [len(run.tokens) for run in runs if run.kind == "speech"]
    words = sum(len((run.spoken or run.text).split()) for run in runs)
    return (min(len(codes), 3), sum(codes)) if words <= MOST_WORDS else (0, 0)


def draw_document(runs: Sequence[Run]) -> str:
    """A document as an SVG that is readable in light and dark: spans are coloured, with the words
    that they say and, below, a box for each code."""
    lines = lay_out(runs)
    width, height = LINE_CHARACTERS * CHARACTER + 40, LINE * len(lines) + 48
    parts = [
        _text(20, 24, "text", "note"),
        _box(61, 12, 16, 15, "span"),
        _text(84, 24, "speech: codes (small boxes) in place of the words", "note"),
    ]
    for number, line in enumerate(lines):
        y = LINE * number + 62
        for piece in line:
            x, length = 20 + piece.column * CHARACTER, len(piece.text) * CHARACTER
            if piece.codes is None:
                parts.append(_text(x, y, piece.text, "", length))
                continue
            parts.append(_box(x - 4, y - 17, length + 8, 37, "span"))
            parts.append(_text(x, y, piece.text, "spoken", length))
            parts += _codes(x, y + 7, piece.codes, length)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height}" '
        f'viewBox="0 0 {width:g} {height}" role="img" aria-label="An interleaved document">'
        f"<style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )


def _text(x: float, y: float, content: str, css: str, length: float | None = None) -> str:
    fixed = f' textLength="{length:g}" lengthAdjust="spacingAndGlyphs"' if length else ""
    return f'<text class="{css}" x="{x:g}" y="{y:g}"{fixed}>{escape(content)}</text>'


def _box(x: float, y: float, width: float, height: float, css: str, more: str = "") -> str:
    size = f'width="{width:g}" height="{height:g}"'
    return f'<rect class="{css}" x="{x:g}" y="{y:g}" {size} rx="{min(5, height / 4):g}"{more}/>'


def _codes(x: float, y: float, codes: Sequence[int], width: float) -> list[str]:
    """A box for each code, shaded by its number; narrower where there are many."""
    step = min(CODE, width / max(len(codes), 1))
    return [
        _box(
            x + place * step,
            y,
            step - 1,
            8,
            "code",
            f' opacity="{0.4 + 0.6 * (code % 16) / 15:.2f}"',
        )
        for place, code in enumerate(codes)
    ]


def lay_out(runs: Sequence[Run]) -> list[list[Piece]]:
    """The document in lines of `LINE_CHARACTERS` characters, broken between words."""
    lines: list[list[Piece]] = [[]]
    column = 0
    for run in runs:
        if run.kind == "special":
            continue
        spoken = run.kind == "speech"
        words = ((run.spoken or "") if spoken else run.text).split()
        codes = [int(code) for code in run.text.split()] if spoken else []
        while words:
            taken = _fitting(words, LINE_CHARACTERS - column)
            if not taken:
                lines.append([])
                column = 0
                continue
            share = round(len(codes) * taken / len(words))
            text = " ".join(words[:taken])
            under = tuple(codes[:share]) if spoken else None
            lines[-1].append(Piece(text=text, column=column, codes=under))
            words, codes = words[taken:], codes[share:]
            column += len(text) + 2
    return lines


def _fitting(words: Sequence[str], space: int) -> int:
    """How many words fit; at least one where the line is empty."""
    count, length = 0, -1
    while count < len(words) and length + 1 + len(words[count]) <= space:
        length += 1 + len(words[count])
        count += 1
    return count or int(space == LINE_CHARACTERS)


def _asking(question: str) -> Callable[[Any], None]:
    """Begins, types a question, and waits until it is answered."""

    def ask(page: Any) -> None:
        page.click("#start")
        page.wait_for_selector("body[data-state=ready]")
        page.fill("#text", question)
        page.keyboard.press("Enter")
        page.wait_for_selector(".turn.model:not(.busy):not(.playing)")

    return ask


def take_screenshot(address: str, path: Path, act: Callable[[Any], None]) -> None:
    """What a browser shows of a page, in light colours, after `act` was done on it."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise DataError(
            "screenshots need playwright: pip install -c constraints.txt -e '.[browser]'"
        ) from None
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise DataError("no chromium is installed; expected one for screenshots (apt-get install)")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--use-fake-ui-for-media-stream"]
        arguments += ["--use-fake-device-for-media-stream"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport=SCREEN, color_scheme="light")
        page.set_default_timeout(300_000)
        page.goto(address)
        act(page)
        page.screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    cli.run(main, starts_over=True)
