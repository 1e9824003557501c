"""Sentence ends, for sentence-aligned spans and for texts too long to be spoken in one go."""

import re

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
