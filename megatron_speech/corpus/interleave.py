"""Between a document's characters, words and tokens: where text may be cut to be spoken.

A document is tokenised whole, once, and the text that stays text is slices of those tokens, so
text tokens are the same as in the un-interleaved document. A cut therefore falls only where a
token begins a word; words that share a token are one *unit*. With the unit `token` it may fall
between any two tokens that share no character.
"""

import re
from dataclasses import dataclass

import numpy as np

from ..data.words import word_bounds
from ..vocab import SpeechTextVocab
from .sentences import sentence_ends
from .spans import SpanConfig, Spans, sample_sentence_spans, sample_word_spans, skip_left_out
from .speakable import Content

_SPEAKABLE = re.compile(r"[^\W_]")


@dataclass(frozen=True)
class CutText:
    """A tokenised document and the units it may be cut into.

    `tokens` (n,) int32 ids; `unit_tokens` and `unit_characters` (u, 2) start and stop of each
    unit in tokens and in characters, not overlapping, in order. `sentences` (s,) are the units of
    each sentence or line. `speakable` (u,) says which units may be spoken.
    """

    text: str
    tokens: np.ndarray
    unit_tokens: np.ndarray
    unit_characters: np.ndarray
    sentences: np.ndarray
    speakable: np.ndarray
    content: Content


def cut_text(
    vocab: SpeechTextVocab,
    text: str,
    unit: str = "word",
    language: str = "en",
    skip_unspeakable: bool = False,
) -> CutText:
    """Tokenise `text` and find its units; sentences or lines only if `unit` asks for them."""
    ids, offsets = vocab.text.offsets(text)
    spans = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    bounds = token_bounds(text, spans) if unit == "token" else word_bounds(text)
    characters, tokens = align_units(bounds, spans)
    sentences = np.zeros(0, np.int64)
    if unit in ("sentence", "line"):
        sentences = _sentences(text, characters, unit, language)
    content = Content(text)
    speakable = np.ones(len(characters), bool)
    if skip_unspeakable:
        speakable = content.speakable(characters)
    ids = np.array(ids, dtype=np.int32)
    return CutText(text, ids, tokens, characters, sentences, speakable, content)


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


def align_units(words: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group words (w, 2) so that every group begins with a token; characters of both.

    Returns the groups' characters (u, 2) and tokens (u, 2). A token begins a word if it covers
    the word's first character and nothing of the word before (leading whitespace is allowed).
    """
    starts = np.maximum.accumulate(tokens[:, 0]) if len(tokens) else tokens[:, 0]
    stops = np.maximum.accumulate(tokens[:, 1]) if len(tokens) else tokens[:, 1]
    first = np.searchsorted(stops, words[:, 0], side="right")
    inside = first < len(tokens)
    begin = starts[np.minimum(first, max(len(tokens) - 1, 0))] if len(tokens) else first
    word_before = np.concatenate([[0], words[:-1, 1]])[: len(words)]
    aligned = inside & (begin >= word_before) & (begin <= words[:, 0])
    heads = np.flatnonzero(aligned)
    if not len(heads):
        return np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64)
    tails = np.append(heads[1:] - 1, len(words) - 1)
    characters = np.stack([words[heads, 0], words[tails, 1]], axis=1)
    token_stops = np.searchsorted(starts, characters[:, 1], side="left")
    token_stops = np.minimum(token_stops, np.append(first[heads][1:], len(tokens)))
    return characters, np.stack([first[heads], token_stops], axis=1)


def _sentences(text: str, characters: np.ndarray, unit: str, language: str) -> np.ndarray:
    """Units per sentence, or per line."""
    starts, stops = characters[:, 0], characters[:, 1]
    if unit == "sentence":
        ends = sentence_ends(text, starts, stops, language)
    else:
        following = np.append(starts, len(text))[1:]
        pairs = zip(stops.tolist(), following.tolist(), strict=True)
        ends = np.array(["\n" in text[stop:after] for stop, after in pairs], dtype=bool)
        ends[-1:] = True
    return np.diff(np.flatnonzero(ends), prepend=-1)


def choose_spans(cuts: list[CutText], keys: np.ndarray, config: SpanConfig) -> Spans:
    """Spans of a batch of documents, in units, whatever the unit of choice.

    What is not speakable is left out before the spans are drawn: eta is a share of the rest, and a
    span that would cross something left out becomes two.
    """
    if config.unit in ("word", "token"):
        speakable = [cut.speakable for cut in cuts]
        spans = sample_word_spans(_counts(speakable), keys, config)
        return skip_left_out(spans, speakable)
    whole = [_whole_sentences(cut) for cut in cuts]
    words = [cut.sentences[kept] for cut, kept in zip(cuts, whole, strict=True)]
    flat = np.concatenate([np.zeros(0, np.int64), *words])
    spans = sample_sentence_spans(flat, _counts(whole), keys, config)
    spans = skip_left_out(spans, whole)
    lengths = [cut.sentences for cut in cuts]
    counts = np.array([len(each) for each in lengths], dtype=np.int64)
    units_before = np.concatenate([[0], np.cumsum(np.concatenate([[0][:0], *lengths]))])
    first = (np.cumsum(counts) - counts)[spans.document]
    start = units_before[first + spans.start] - units_before[first]
    stop = units_before[first + spans.stop] - units_before[first]
    return Spans(spans.document, start.astype(np.int64), stop.astype(np.int64))


def _counts(masks: list[np.ndarray]) -> np.ndarray:
    return np.array([int(mask.sum()) for mask in masks], dtype=np.int64)


def _whole_sentences(cut: CutText) -> np.ndarray:
    """Which sentences (s,) hold nothing unspeakable."""
    if not len(cut.sentences):
        return np.zeros(0, bool)
    return np.logical_and.reduceat(cut.speakable, np.cumsum(cut.sentences) - cut.sentences)


def spoken_text(text: str, start: int, stop: int) -> str:
    """What is spoken of characters start..stop: its words, one space between them."""
    return " ".join(text[start:stop].split())


def is_speakable(text: str) -> bool:
    """Whether there is a letter or digit to be said."""
    return _SPEAKABLE.search(text) is not None
