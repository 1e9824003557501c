"""Sentence ends, for sentence-aligned spans and for texts too long to be spoken in one go.

Where NLTK's Punkt model is installed (`python -m nltk.downloader punkt_tab`), it finds the
sentences of sentence-aligned spans; elsewhere, and for texts that are too long, rules do.
"""

import functools
import re
from typing import Any

import numpy as np

from ..files import fingerprint_of

RULES = "rules"
_PUNKT_LANGUAGE = "english"
_CJK_ENDS = re.compile(r"[。！？][\"'”’»)\]」』]*$")
_ENDS = re.compile(r"[.!?…。！？]+[\"'”’»)\]」』]*$")
_ABBREVIATIONS = frozenset(
    "mr. mrs. ms. dr. prof. st. jr. sr. vs. etc. e.g. i.e. cf. no. vol. fig. approx. inc. ltd."
    " co. gen. col. capt. lt. sgt. rev. hon. jan. feb. mar. apr. jun. jul. aug. sep. sept. oct."
    " nov. dec.".split()
)
_INITIAL = re.compile(r"^[\"'“‘(\[]*[A-Z]\.$")


def ends_sentence(word: str) -> bool:
    """Whether a sentence can end after this word (punctuation attached)."""
    if not _ENDS.search(word):
        return False
    return word.lower().lstrip("\"'“‘([") not in _ABBREVIATIONS and not _INITIAL.match(word)


@functools.lru_cache(maxsize=1)
def _punkt() -> Any | None:
    """NLTK's splitter, None where its data is not installed."""
    from nltk.tokenize.punkt import PunktTokenizer

    try:
        return PunktTokenizer(_PUNKT_LANGUAGE)
    except LookupError:
        return None


def sentence_splitter() -> str:
    """Names what finds sentences here: `rules`, or Punkt with the fingerprint of its data."""
    punkt = _punkt()
    if punkt is None:
        return RULES
    known = punkt._params
    parts = (known.abbrev_types, known.collocations, known.sent_starters)
    # looking a word up leaves an empty entry there
    contexts = sorted(item for item in known.ortho_context.items() if item[1])
    return f"punkt-{fingerprint_of(*(repr(sorted(part)) for part in parts), repr(contexts))}"


def sentence_ends(text: str, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Whether a sentence ends with each piece of `text`, (n,) bool.

    The pieces are characters `starts` to `stops` (n,), in order, whitespace between them. An empty
    line ends a sentence too, and so does the end of the text.
    """
    following = np.append(starts, len(text))[1:]
    pieces = list(zip(starts.tolist(), stops.tolist(), following.tolist(), strict=True))
    ends = np.array(["\n\n" in text[stop:after] for _, stop, after in pieces], dtype=bool)
    ends[-1:] = True
    punkt = _punkt()
    if punkt is None:
        found = [ends_sentence(text[start:stop]) for start, stop, _ in pieces]
        return ends | np.array(found, dtype=bool)
    # Punkt wants whitespace after a full stop; Chinese and Japanese have none
    found = [_CJK_ENDS.search(text[start:stop]) is not None for start, stop, _ in pieces]
    found_ends = np.array([stop for _, stop in punkt.span_tokenize(text)], dtype=np.int64)
    inside = np.searchsorted(found_ends, following, side="right")
    inside -= np.searchsorted(found_ends, starts, side="right")
    return ends | np.array(found, dtype=bool) | (inside > 0)


def split_sentences(text: str, at_most: int) -> list[str]:
    """Split `text` at sentence ends into parts of at most `at_most` characters where it can.

    Sentences are put together as long as they fit; a single longer sentence stays whole.
    """
    if len(text) <= at_most:
        return [text]
    parts: list[str] = []
    sentence: list[str] = []
    for word in text.split():
        sentence.append(word)
        if ends_sentence(word):
            _append(parts, " ".join(sentence), at_most)
            sentence = []
    if sentence:
        _append(parts, " ".join(sentence), at_most)
    return parts


def _append(parts: list[str], sentence: str, at_most: int) -> None:
    if parts and len(parts[-1]) + 1 + len(sentence) <= at_most:
        parts[-1] += " " + sentence
    else:
        parts.append(sentence)
