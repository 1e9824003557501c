"""Which text tokens are written in a language's letters, to keep an answer in it.

Released models answer in Chinese now and then when asked in English; a mask on the logits is what
their users found to help (paper sections 7.4 and 9).
"""

import unicodedata

import numpy as np

from ..errors import ConfigError
from ..text.tokenizers import TextTokenizer

_SCRIPTS = {"en": ("LATIN",), "zh": ("CJK", "IDEOGRAPHIC")}
_BROKEN = "\ufffd"


def in_language(text: TextTokenizer, language: str) -> np.ndarray:
    """(size,) bool: tokens without a letter of a foreign script.

    Digits, marks and spaces belong to every language. A token that is part of a character only is
    kept where the language's letters take several bytes (`zh`), and left out elsewhere.

    Raises:
        ConfigError: a language whose script is not known here.
    """
    if language not in _SCRIPTS:
        raise ConfigError(f"--language is {language!r}; known are {', '.join(_SCRIPTS)}")
    own = _SCRIPTS[language]
    kept = np.zeros(text.size, dtype=bool)
    for token in range(text.size):
        piece = text.decode([token])
        if _BROKEN in piece:
            kept[token] = language == "zh"
        else:
            kept[token] = all(_belongs(letter, own) for letter in piece)
    return kept


def _belongs(letter: str, scripts: tuple[str, ...]) -> bool:
    if not unicodedata.category(letter).startswith("L"):
        return True
    return unicodedata.name(letter, "").startswith(scripts)
