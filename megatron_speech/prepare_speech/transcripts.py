"""Transcripts that were there before, cut to the segments in which their words are heard."""

import unicodedata
from collections.abc import Sequence

from ..text.words import word_bounds


def distribute(text: str, readings: Sequence[str]) -> list[str]:
    """Parts of the `text` of a recording, as it is written, for segments that were read in order.

    Words of the text are aligned with those that were read; one that was not heard goes with the
    word before it. Whether a part is what the segment says is for its word errors to tell.
    """
    import jiwer

    bounds = word_bounds(text)
    words = [_plain(text[start:stop]) for start, stop in bounds]
    heard, owners = list[str](), list[int]()
    for number, reading in enumerate(readings):
        for start, stop in word_bounds(reading):
            heard.append(_plain(reading[start:stop]))
            owners.append(number)
    if not words or not heard:
        return ["" for _ in readings]
    aligned = jiwer.process_words([" ".join(words)], [" ".join(heard)])
    owner: list[int | None] = [None] * len(words)
    for chunk in aligned.alignments[0]:
        if chunk.type in ("equal", "substitute"):
            for step in range(chunk.ref_end_idx - chunk.ref_start_idx):
                owner[chunk.ref_start_idx + step] = owners[chunk.hyp_start_idx + step]
    parts = ["" for _ in readings]
    last = next((number for number in owner if number is not None), 0)
    firsts: dict[int, tuple[int, int]] = {}
    for word, number in enumerate(owner):
        last = last if number is None else max(number, last)
        firsts[last] = (firsts.get(last, (word, word))[0], word)
    for number, (first, final) in firsts.items():
        parts[number] = text[bounds[first][0] : bounds[final][1]]
    return parts


def _plain(word: str) -> str:
    """A word as it is heard; never empty, so that words keep their numbers."""
    kept = [c for c in word.casefold() if c.isalnum() or unicodedata.category(c)[0] == "M"]
    return "".join(kept) or "-"
