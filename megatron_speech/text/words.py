"""Where the words of a text are, and whether it has any. Imports no torch."""

import re

import numpy as np

# Chinese and Japanese write no spaces: there every character is a word, with its punctuation
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
OPENING = "「『（《〈【〔“‘([<«"
_OPEN = re.escape(OPENING)
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
_WORD = re.compile(r"\S+")
_ANY_CJK = re.compile(rf"[{_CJK}]")
_CJK_WORD = re.compile(rf"[{_OPEN}]*[{_CJK}][^\w\s{_OPEN}]*|(?:(?![{_OPEN}]*[{_CJK}])\S)+")


def is_speakable(text: str) -> bool:
    """Whether there is a letter or digit to be said."""
    return _LETTER_OR_DIGIT.search(text) is not None


def word_bounds(text: str) -> np.ndarray:
    """Start and stop characters of the words of `text`, (w, 2): what stands between whitespace."""
    pattern = _CJK_WORD if _ANY_CJK.search(text) else _WORD
    flat = [bound for match in pattern.finditer(text) for bound in match.span()]
    return np.array(flat, dtype=np.int64).reshape(-1, 2)
