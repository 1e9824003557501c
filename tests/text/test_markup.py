"""What is said of a stretch of text: its words, without marks of markup."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_speech.text.markup import code_blocks, is_roff, spoken_text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("one\r\n  two\tthree", "one two three"),
        ("I gave it to _him_, not to _her_.", "I gave it to him, not to her."),
        ('"_You_ are *quite* **sure**?"', '"You are quite sure?"'),
        ("a (_very_ old) snake_case * 3", "a (very old) snake_case 3"),
        ("Bring:\n* a coat\n* a lamp\n## Then\n- go", "Bring: a coat a lamp Then - go"),
        ("许多工\n    具是由，\n他们写的 X\nWindow 系统", "许多工具是由，他们写的 X Window 系统"),
        ("한국어는\n띄어쓰기를 한다", "한국어는 띄어쓰기를 한다"),
    ],
)
def test_what_is_said(text, said):
    assert spoken_text(text, 0, len(text)) == said


def test_only_the_stretch_is_said():
    assert spoken_text("so _he is_ here", 4, 9) == "he is"


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab _*#\n.,你", max_size=40))
def test_no_letter_is_lost(text):
    said = spoken_text(text, 0, len(text))
    assert [c for c in said if c.isalnum()] == [c for c in text if c.isalnum()]
    assert said == " ".join(said.split())


def test_blocks_end_where_lines_are_no_further_in():
    text = "Say::\n\n   a\n\n     b\nafter\n  .. code:: c\n     d\n  in\n.. note::\n   e"
    found = [text[start:stop] for start, stop in code_blocks(text)]
    assert [" ".join(each.split()) for each in found] == ["a b", ".. code:: c", "d", ".. note::"]


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        (".TH LS 1\n.SH NAME\nls", True),
        ("text before\n.Dd May 1\n.Sh NAME", True),
        ("a part\n.IP\nof one\n.B bold\n.Sp", True),
        ("one\n.B line and\n.B another", False),
        ("'Sh! he said\n...TH\nSH", False),
        ("The suffix\n.SHX is old", False),
    ],
)
def test_sources_of_manual_pages(text, roff):
    assert is_roff(text) == roff
