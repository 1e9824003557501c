"""Words of languages that write none: where Chinese, Japanese and Thai may be cut.

Chinese is cut into words by jieba (rjieba), traditional Chinese, Japanese and Thai by BudouX,
whose pieces are the phrases that a line may be broken behind.
"""

import functools
import itertools
import re
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np

from ..errors import ConfigError
from .words import OPENING
from .writing_systems import WITHOUT_SPACES, WRAPPED_LINE

_TRADITIONAL = ("zh-hant", "zh-tw", "zh-hk")
_MAKERS: dict[str, tuple[str, Callable[[Any], Callable[[str], list[str]]]]] = {
    "zh": ("rjieba", lambda rjieba: rjieba.cut),
    "ja": ("budoux", lambda budoux: budoux.load_default_japanese_parser().parse),
    "th": ("budoux", lambda budoux: budoux.load_default_thai_parser().parse),
    **dict.fromkeys(
        _TRADITIONAL,
        ("budoux", lambda budoux: budoux.load_default_traditional_chinese_parser().parse),
    ),
}
_STRETCH = re.compile(r"\S+")


def segmenter_name(language: str) -> str:
    """Names what finds the words of `language`, with its version: spans depend on it.

    Raises:
        ConfigError: none is known for the language, or its package is not installed.
    """
    _segmenter(language)
    package = _MAKERS[_tag(language)][0]
    return f"{package}-{version(package)}"


def segmented_words(text: str, language: str) -> np.ndarray:
    """Start and stop characters of the words of `text`, (w, 2), in a language of this module.

    Punctuation belongs to the word before it, opening brackets and quotes to the one after. A word
    may go on in the next line. Words of other scripts stand between spaces, as anywhere.
    """
    cut = _segmenter(language)
    joined, place = _unwrapped(text)
    bounds: list[tuple[int, int]] = []
    for match in _STRETCH.finditer(joined):
        stretch, first = match[0], match.start()
        edges = [0, *_borders(stretch, cut), len(stretch)]
        bounds += [(first + a, first + b) for a, b in itertools.pairwise(edges)]
    found = np.array(bounds, dtype=np.int64).reshape(-1, 2)
    return np.stack([place[found[:, 0]], place[found[:, 1] - 1] + 1], axis=1)


def _borders(stretch: str, cut: Callable[[str], list[str]]) -> list[int]:
    """Where `stretch`, which has no spaces, may be cut between two words."""
    if not WITHOUT_SPACES.search(stretch):
        return []
    stops = np.cumsum([len(piece) for piece in cut(stretch)])[:-1].tolist()
    return [stop for stop in stops if _is_border(stretch[stop - 1], stretch[stop])]


def _is_border(left: str, right: str) -> bool:
    starts = right.isalnum() or right in OPENING
    unspaced = WITHOUT_SPACES.match(left + right) or WITHOUT_SPACES.match(right)
    return starts and left not in OPENING and bool(unspaced or not left.isalnum())


def _unwrapped(text: str) -> tuple[str, np.ndarray]:
    """`text` without the ends of lines inside unspaced scripts, and where its characters were."""
    kept = np.ones(len(text), bool)
    for match in WRAPPED_LINE.finditer(text):
        kept[match.start() : match.end()] = False
    return WRAPPED_LINE.sub("", text), np.flatnonzero(kept)


def _tag(language: str) -> str:
    tag = language.lower().replace("_", "-")
    return tag if tag in _MAKERS else tag.partition("-")[0]


@functools.cache
def _segmenter(language: str) -> Callable[[str], list[str]]:
    if _tag(language) not in _MAKERS:
        raise ConfigError(
            f"--segment-words: no segmenter for language {language!r} is known here (only for "
            f"{', '.join(sorted(_MAKERS))}); leave the flag out, or name the language of the "
            "texts with --language"
        )
    package, make = _MAKERS[_tag(language)]
    try:
        module = import_module(package)
    except ImportError:
        raise ConfigError(
            f"--segment-words needs the package {package} for language {language!r}: "
            "pip install -c constraints.txt -e '.[segmenters]'"
        ) from None
    return make(module)
