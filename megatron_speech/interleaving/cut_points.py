"""Between a document's characters, words and tokens: where text may be cut to be spoken.

A document is tokenised whole, once, and the text that stays text is slices of those tokens, so
text tokens are the same as in the un-interleaved document. A cut therefore falls only where a
token begins a word; words that share a token are one *unit*. With the unit `token` it may fall
between any two tokens that share no character.
"""

from dataclasses import dataclass

import numpy as np

from ..text.segmenters import segmented_words
from ..text.speakable import Content
from ..text.vocab import SpeechTextVocab
from .spans import SpanConfig, Spans, sample_group_spans, sample_word_spans, skip_left_out
from .units import UNITS


@dataclass(frozen=True)
class CutText:
    """A tokenised document and the units it may be cut into.

    `tokens` (n,) int32 ids; `unit_tokens` and `unit_characters` (u, 2) start and stop of each
    unit in tokens and in characters, not overlapping, in order. `groups` (s,) are the units of
    each sentence, phrase or line. `speakable` (u,) says which units may be spoken.
    """

    text: str
    tokens: np.ndarray
    unit_tokens: np.ndarray
    unit_characters: np.ndarray
    groups: np.ndarray
    speakable: np.ndarray
    content: Content


def cut_text(
    vocab: SpeechTextVocab,
    text: str,
    unit: str = "word",
    language: str = "en",
    skip_unspeakable: bool = False,
    segment_words: bool = False,
) -> CutText:
    """Tokenise `text` and find its units; sentences and their like only if `unit` asks for them."""
    ids, offsets = vocab.text.offsets(text)
    spans = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    ends = UNITS[unit].ends
    if segment_words:
        pieces = segmented_words(text, language)
    else:
        pieces = UNITS[unit].pieces(text, spans)
    characters, tokens = align_units(pieces, spans)
    groups = np.zeros(0, np.int64)
    if ends is not None:
        last = ends(text, characters[:, 0], characters[:, 1], language)
        groups = np.diff(np.flatnonzero(last), prepend=-1)
    content = Content(text)
    speakable = np.ones(len(characters), bool)
    if skip_unspeakable:
        speakable = content.speakable(characters)
    ids = np.array(ids, dtype=np.int32)
    return CutText(text, ids, tokens, characters, groups, speakable, content)


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


def choose_spans(cuts: list[CutText], keys: np.ndarray, config: SpanConfig) -> Spans:
    """Spans of a batch of documents, in units, whatever the unit of choice.

    What is not speakable is left out before the spans are drawn: eta is a share of the rest, and a
    span that would cross something left out becomes two.
    """
    if UNITS[config.unit].ends is None:
        speakable = [cut.speakable for cut in cuts]
        spans = sample_word_spans(_counts(speakable), keys, config)
        return skip_left_out(spans, speakable)
    whole = [_whole_groups(cut) for cut in cuts]
    words = [cut.groups[kept] for cut, kept in zip(cuts, whole, strict=True)]
    flat = np.concatenate([np.zeros(0, np.int64), *words])
    spans = sample_group_spans(flat, _counts(whole), keys, config)
    spans = skip_left_out(spans, whole)
    lengths = [cut.groups for cut in cuts]
    counts = np.array([len(each) for each in lengths], dtype=np.int64)
    units_before = np.concatenate([[0], np.cumsum(np.concatenate([[0][:0], *lengths]))])
    first = (np.cumsum(counts) - counts)[spans.document]
    start = units_before[first + spans.start] - units_before[first]
    stop = units_before[first + spans.stop] - units_before[first]
    return Spans(spans.document, start.astype(np.int64), stop.astype(np.int64))


def _counts(masks: list[np.ndarray]) -> np.ndarray:
    return np.array([int(mask.sum()) for mask in masks], dtype=np.int64)


def _whole_groups(cut: CutText) -> np.ndarray:
    """Which groups (s,) hold nothing unspeakable."""
    if not len(cut.groups):
        return np.zeros(0, bool)
    return np.logical_and.reduceat(cut.speakable, np.cumsum(cut.groups) - cut.groups)
