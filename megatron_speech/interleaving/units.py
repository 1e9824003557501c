"""The units of interleaving: what spans are made of. Another unit is another entry. No torch.

A document's *pieces* are the smallest that can be spoken. Spans are runs of pieces with drawn
lengths, or, where a unit has `ends`, whole groups of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..text.sentences import sentence_ends, sentence_splitter
from ..text.words import word_bounds

UnitName = Literal["word", "token", "phrase", "sentence", "line"]

# What ends a phrase within a sentence: of Latin, Chinese and Japanese, Arabic and Ethiopic script
_PHRASE_MARKS = tuple(",;:，；：、،؛፣፤፥")
# German closes with “ and «, which elsewhere open: behind a word they close
_CLOSING = "\"'”’“‘»›«‹)]}」』）】〉》"


def token_bounds(text: str, tokens: np.ndarray) -> np.ndarray:
    """Characters (w, 2) of the tokens (n, 2), without the whitespace around them.

    Tokens of whitespace alone are left out, tokens that share characters (bytes of an emoji) count
    as one.
    """
    found: list[list[int]] = []
    for start, stop in tokens.tolist():
        piece = text[start:stop]
        start, stop = (
            start + len(piece) - len(piece.lstrip()),
            stop - len(piece) + len(piece.rstrip()),
        )
        if start >= stop:
            continue
        if found and start < found[-1][1]:
            found[-1][1] = max(found[-1][1], stop)
        else:
            found.append([start, stop])
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def line_ends(text: str, starts: np.ndarray, stops: np.ndarray, language: str) -> np.ndarray:
    """Which pieces (n,) are the last of a line; arguments as those of `sentence_ends`."""
    following = np.append(starts, len(text))[1:]
    pairs = zip(stops.tolist(), following.tolist(), strict=True)
    ends = np.array(["\n" in text[stop:after] for stop, after in pairs], dtype=bool)
    ends[-1:] = True
    return ends


def phrase_ends(text: str, starts: np.ndarray, stops: np.ndarray, language: str) -> np.ndarray:
    """Which pieces (n,) are the last of a phrase; arguments as those of `sentence_ends`.

    A phrase ends where a sentence does, and with a piece that ends in a comma, semicolon or colon,
    closing quotes and brackets aside. Such a mark within a piece (`3,000`, `10:30`) ends none.
    """
    pairs = zip(starts.tolist(), stops.tolist(), strict=True)
    marked = (text[start:stop].rstrip(_CLOSING).endswith(_PHRASE_MARKS) for start, stop in pairs)
    return sentence_ends(text, starts, stops, language) | np.fromiter(marked, bool, len(starts))


def _words(text: str, tokens: np.ndarray) -> np.ndarray:
    return word_bounds(text)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One kind of span."""

    pieces: Callable[[str, np.ndarray], np.ndarray] = _words
    """Characters (w, 2) of the pieces of a text, whose tokens' characters are (n, 2)."""
    ends: Callable[[str, np.ndarray, np.ndarray, str], np.ndarray] | None = None
    """Which pieces end a group, by text, starts, stops and language; none: lengths are drawn."""
    splitter: Callable[[str], str] | None = None
    """Names what finds the groups of a language, with its version: a plan depends on it."""
    cuts_words: bool = False
    is_segment: bool = False
    """A line of recordings is a segment: it can be cut out without the times of words."""

    @property
    def draws_words(self) -> bool:
        """Whether the lengths drawn count words."""
        return self.ends is None and not self.cuts_words


UNITS: dict[str, Unit] = {
    "word": Unit(),
    "token": Unit(pieces=token_bounds, cuts_words=True),
    "phrase": Unit(ends=phrase_ends, splitter=sentence_splitter),
    "sentence": Unit(ends=sentence_ends, splitter=sentence_splitter),
    "line": Unit(ends=line_ends, is_segment=True),
}
