"""Which text tokens are written in a language's letters, to keep an answer in it.

Released models answer in Chinese now and then when asked in English; a mask on the logits is what
their users found to help (paper sections 7.4 and 9).
"""

import unicodedata

import numpy as np

from ..errors import ConfigError
from ..text.tokenizers import TextTokenizer
from ..text.writing_systems import base_language

_HAN = ("CJK", "IDEOGRAPHIC")
_OF_SCRIPTS = {
    ("ARABIC",): "ar fa ps sd ug ur", ("ARMENIAN",): "hy", ("BENGALI",): "as bn",
    ("CYRILLIC",): "ba be bg kk ky mk mn ru sr tg tt uk", ("DEVANAGARI",): "hi mr ne sa",
    ("ETHIOPIC",): "am ti", ("GEORGIAN",): "ka", ("GREEK",): "el", ("GUJARATI",): "gu",
    ("GURMUKHI",): "pa", ("HANGUL",): "ko", ("HEBREW",): "he yi", ("KANNADA",): "kn",
    ("KHMER",): "km", ("LAO",): "lo", ("MALAYALAM",): "ml", ("MYANMAR",): "my", ("ORIYA",): "or",
    ("SINHALA",): "si", ("TAMIL",): "ta", ("TELUGU",): "te", ("THAI",): "th",
    ("TIBETAN",): "bo dz", _HAN: "yue zh", ("HIRAGANA", "KATAKANA", *_HAN): "ja",
    ("LATIN",): "af az br bs ca cs cy da de en es et eu fi fo fr gl ha haw hr ht hu id is it jw la "
    "lb ln lt lv mg mi ms mt nl nn no oc pl pt ro sk sl sn so sq su sv sw tk tl tr uz vi yo",
}  # fmt: skip
_SCRIPTS = {code: scripts for scripts, codes in _OF_SCRIPTS.items() for code in codes.split()}
_BROKEN = "\ufffd"


def scripts_of(language: str) -> tuple[str, ...]:
    """The scripts of a language (ISO 639-1), as the names of their letters begin.

    Raises:
        ConfigError: a language whose script is not known here.
    """
    if base_language(language) not in _SCRIPTS:
        raise ConfigError(f"--language is {language!r}; known are {', '.join(sorted(_SCRIPTS))}")
    return _SCRIPTS[base_language(language)]


def in_language(text: TextTokenizer, language: str) -> np.ndarray:
    """(size,) bool: tokens without a letter of a foreign script.

    Digits, marks and spaces belong to every language. A token that is part of a character only is
    left out in English, whose letters take one byte each, and kept elsewhere (`ñ` takes two).

    Raises:
        ConfigError: a language whose script is not known here.
    """
    own = scripts_of(language)
    kept = np.zeros(text.size, dtype=bool)
    for token in range(text.size):
        piece = text.decode([token])
        if _BROKEN in piece:
            kept[token] = base_language(language) != "en"
        else:
            kept[token] = all(_belongs(letter, own) for letter in piece)
    return kept


def _belongs(letter: str, scripts: tuple[str, ...]) -> bool:
    if not unicodedata.category(letter).startswith("L"):
        return True
    return unicodedata.name(letter, "").startswith(scripts)
