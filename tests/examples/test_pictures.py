"""The README's pictures: made of a document's runs, small, and readable in light and dark."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from examples import pictures
from megatron_speech.datasets.inspect import Run

ROOT = Path(__file__).resolve().parents[2]
SHOWN = re.findall(r"!\[[^\]]*\]\((docs/pictures/[\w.]+)\)", (ROOT / "README.md").read_text())


def run(kind: str, text: str, spoken: str | None = None) -> Run:
    tokens = np.arange(len(text.split()))
    return Run(kind=kind, text=text, spoken=spoken, tokens=tokens)


DOCUMENT = [
    run("text", "It rained & "),
    run("special", "<|begin_of_audio|>"),
    run(
        "speech",
        " ".join(map(str, range(40))),
        "all day and Kate had to walk to the distant zoo by the",
    ),
    run("special", "<|end_of_audio|>"),
    run("text", " river, where a bear slept."),
]


def test_a_document_is_laid_out_with_every_word_and_every_code():
    lines = pictures.lay_out(DOCUMENT)
    pieces = [piece for line in lines for piece in line]
    words = " ".join(piece.text for piece in pieces)
    assert words == " ".join((run.spoken or run.text).strip() for run in DOCUMENT[::2])
    codes = [code for piece in pieces for code in piece.codes or ()]
    assert codes == list(range(40))
    assert len(lines) > 1
    for line in lines:
        ends = [piece.column + len(piece.text) for piece in line]
        assert ends[-1] <= pictures.LINE_CHARACTERS
        assert all(end < piece.column for end, piece in zip(ends, line[1:], strict=False))


def test_a_long_word_has_a_line_of_its_own():
    (first, second) = pictures.lay_out([run("text", "a " + "x" * 100)])
    assert [piece.text for piece in first + second] == ["a", "x" * 100]


def test_the_drawing_is_an_svg_for_light_and_dark():
    drawing = pictures.draw_document(DOCUMENT)
    root = ElementTree.fromstring(drawing)
    assert "prefers-color-scheme: dark" in drawing
    boxes = [box for box in root if box.get("class") == "code"]
    assert len(boxes) == 40
    for box in boxes:
        assert 0 <= float(box.get("x")) <= float(root.get("width"))


@pytest.mark.parametrize("path", SHOWN)
def test_drawings_of_the_readme_follow_the_colours_of_the_page(path):
    if path.endswith(".svg"):
        assert "prefers-color-scheme: dark" in (ROOT / path).read_text()


def test_the_pictures_are_there_and_small():
    assert {Path(path).stem for path in SHOWN} == {
        "interleaved",
        "speech_to_text",
        "chat",
        "report",
    }
    folder = (ROOT / "docs" / "pictures").iterdir()
    assert sum(path.stat().st_size for path in folder) <= 1_000_000
