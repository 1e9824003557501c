"""Sentences, for sentence-aligned spans and for texts too long to be spoken in one go.

sentencex finds them (some 300 languages; one it does not know is read like English). English is
left to NLTK's Punkt where its model is installed (`python -m nltk.downloader punkt_tab`).
"""

import functools
import re
from importlib.metadata import version
from typing import Any

import numpy as np
import sentencex

from ..io.files import fingerprint_of
from .writing_systems import base_language

_PUNKT_LANGUAGES = {"en": "english"}
_DASHES = str.maketrans("-–—―", "    ")
# abbreviations before a name that sentencex does not know
_TITLES = {
    "fr": re.compile(r"(?<!\w)(?:MM?|Mmes?|Mlles?|Mgr|Dr|Pr|[Pp]rof|Ste?|cf)\.\s*$"),
    "es": re.compile(r"(?<!\w)(?:D|Dña|D[ªa]|Fr|Pbro)\.\s*$"),
}
_CJK_ENDS = re.compile(r"[。！？][\"'”’»)\]」』]*")


@functools.cache
def _punkt(language: str) -> Any | None:
    """NLTK's splitter, None where it is not for this language or its data is not installed."""
    if language not in _PUNKT_LANGUAGES:
        return None
    from nltk.tokenize.punkt import PunktTokenizer

    try:
        return PunktTokenizer(_PUNKT_LANGUAGES[language])
    except LookupError:
        return None


def sentence_splitter(language: str) -> str:
    """Names what finds sentences here, with its version, or the fingerprint of Punkt's data."""
    punkt = _punkt(language)
    if punkt is None:
        return f"sentencex-{version('sentencex')}-{language}"
    known = punkt._params
    parts = (known.abbrev_types, known.collocations, known.sent_starters)
    # looking a word up leaves an empty entry there
    contexts = sorted(item for item in known.ortho_context.items() if item[1])
    return f"punkt-{fingerprint_of(*(repr(sorted(part)) for part in parts), repr(contexts))}"


def _stops(text: str, language: str) -> np.ndarray:
    """Where sentences of `text` stop, in characters, ascending; the end of the text among them."""
    punkt = _punkt(language)
    if punkt is None:
        # it knows `Mrs.` after a space, and not after a dash
        plain = text.translate(_DASHES)
        found = [one["end_index"] for one in sentencex.get_sentence_boundaries(language, plain)]
        found = [stop for stop in found if not _goes_on(plain, stop, language)]
    else:
        found = [stop for _, stop in punkt.span_tokenize(text)]
        # Punkt wants whitespace after a full stop; Chinese and Japanese have none
        found += [match.end() for match in _CJK_ENDS.finditer(text)]
    return np.unique(np.array([*found, len(text)], dtype=np.int64))


def _goes_on(text: str, stop: int, language: str) -> bool:
    """Whether what ends before `stop` is an abbreviation: a small letter or a name follows."""
    before = text[max(stop - 12, 0) : stop]
    title = _TITLES.get(base_language(language))
    if title and title.search(before):
        return True
    return before.rstrip().endswith(".") and text[stop : stop + 1].islower()


def sentence_ends(
    text: str, starts: np.ndarray, stops: np.ndarray, language: str = "en"
) -> np.ndarray:
    """Whether a sentence ends with each piece of `text`, (n,) bool.

    The pieces are characters `starts` to `stops` (n,), in order, whitespace between them. An empty
    line ends a sentence too, and so does the end of the text. A sentence that ends inside a piece
    (`there.--He`) goes on: no piece is cut, and none belongs to two sentences.
    """
    following = np.append(starts, len(text))[1:]
    pairs = zip(stops.tolist(), following.tolist(), strict=True)
    ends = np.array(["\n\n" in text[stop:after] for stop, after in pairs], dtype=bool)
    ends[-1:] = True
    found = _stops(text, language)
    owner = np.searchsorted(stops, found)  # the first piece that does not stop before
    cut = np.append(starts, len(text))[owner] < found
    rest = zip(found.tolist(), np.append(stops, len(text))[owner].tolist(), strict=True)
    goes_on = [any(map(str.isalnum, text[stop:end])) for stop, end in rest]
    found = found[~(cut & np.array(goes_on, dtype=bool))]
    inside = np.searchsorted(found, following, side="right")
    inside -= np.searchsorted(found, starts, side="right")
    return ends | (inside > 0)


def sentence_spans(text: str, language: str = "en") -> np.ndarray:
    """Characters start..stop of the sentences of `text`, (n, 2), without the space around them.

    No sentence goes beyond its paragraph. Paragraphs are separated by empty lines or, where a text
    has none, by the ends of its lines.
    """
    border = re.compile(r"\n\s*\n" if re.search(r"\S\s*\n\s*\n\s*\S", text) else r"\n")
    spans: list[tuple[int, int]] = []
    edges = [0, *(edge for match in border.finditer(text) for edge in match.span()), len(text)]
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        start = 0
        paragraph = text[first:last]
        for stop in _stops(paragraph, language).tolist() if paragraph.strip() else ():
            piece = paragraph[start:stop]
            if piece.strip():
                low = first + start + len(piece) - len(piece.lstrip())
                spans.append((low, low + len(piece.strip())))
            start = stop
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


def split_sentences(text: str, at_most: int, language: str = "en") -> list[str]:
    """Split `text` at sentence ends into parts of at most `at_most` characters where it can.

    Sentences are put together as long as they fit; a single longer sentence stays whole. Runs of
    whitespace become one space.
    """
    if len(text) <= at_most:
        return [text]
    parts: list[str] = []
    start = stop = 0
    for end in _stops(text, language).tolist():
        if stop > start and len(text[start:end].strip()) > at_most:
            parts.append(text[start:stop])
            start = stop
        stop = end
    parts.append(text[start:stop])
    return [joined for part in parts if (joined := " ".join(part.split()))]
