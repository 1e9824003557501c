"""Between a document's characters, words and tokens: where text may be cut to be spoken.

A document is tokenised whole, once, and the text that stays text is slices of those tokens, so
text tokens are the same as in the un-interleaved document. A cut therefore falls only where a
token begins a word; words that share a token are one *unit*.
"""

import re
from dataclasses import dataclass

import numpy as np

from ..vocab import SpeechTextVocab
from .sentences import sentence_ends
from .spans import SpanConfig, Spans, sample_sentence_spans, sample_word_spans

# Chinese and Japanese write no spaces: there every character is a word, with its punctuation
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_OPEN = "「『（《〈【〔“‘(\\[<«"
_WORD = re.compile(r"\S+")
_ANY_CJK = re.compile(rf"[{_CJK}]")
_CJK_WORD = re.compile(rf"[{_OPEN}]*[{_CJK}][^\w\s{_OPEN}]*|(?:(?![{_OPEN}]*[{_CJK}])\S)+")
_SPEAKABLE = re.compile(r"[^\W_]")


@dataclass(frozen=True)
class CutText:
    """A tokenised document and the units it may be cut into.

    `tokens` (n,) int32 ids; `unit_tokens` and `unit_characters` (u, 2) start and stop of each
    unit in tokens and in characters, not overlapping, in order. `sentences` (s,) units each.
    """

    text: str
    tokens: np.ndarray
    unit_tokens: np.ndarray
    unit_characters: np.ndarray
    sentences: np.ndarray


def word_bounds(text: str) -> np.ndarray:
    """Start and stop characters of the words of `text`, (w, 2): what stands between whitespace."""
    pattern = _CJK_WORD if _ANY_CJK.search(text) else _WORD
    flat = [bound for match in pattern.finditer(text) for bound in match.span()]
    return np.array(flat, dtype=np.int64).reshape(-1, 2)


def cut_text(vocab: SpeechTextVocab, text: str, unit: str = "word") -> CutText:
    """Tokenise `text` and find its units; sentences are looked for only if `unit` asks."""
    ids, offsets = vocab.text.offsets(text)
    bounds = word_bounds(text)
    spans = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    characters, tokens = align_units(bounds, spans)
    sentences = np.zeros(0, np.int64)
    if unit == "sentence":
        sentences = _sentences(text, characters)
    return CutText(text, np.array(ids, dtype=np.int32), tokens, characters, sentences)


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


def _sentences(text: str, characters: np.ndarray) -> np.ndarray:
    """Units per sentence."""
    ends = sentence_ends(text, characters[:, 0], characters[:, 1])
    return np.diff(np.flatnonzero(ends), prepend=-1)


def choose_spans(cuts: list[CutText], keys: np.ndarray, config: SpanConfig) -> Spans:
    """Spans of a batch of documents, in units, whatever the unit of choice."""
    if config.unit == "word":
        units = np.array([len(cut.unit_tokens) for cut in cuts], dtype=np.int64)
        return sample_word_spans(units, keys, config)
    counts = np.array([len(cut.sentences) for cut in cuts], dtype=np.int64)
    words = np.concatenate([np.zeros(0, np.int64), *(cut.sentences for cut in cuts)])
    spans = sample_sentence_spans(words, counts, keys, config)
    units_before = np.concatenate([[0], np.cumsum(words)])
    first = (np.cumsum(counts) - counts)[spans.document]
    start = units_before[first + spans.start] - units_before[first]
    stop = units_before[first + spans.stop] - units_before[first]
    return Spans(spans.document, start, stop)


def spoken_text(text: str, start: int, stop: int) -> str:
    """What is spoken of characters start..stop: its words, one space between them."""
    return " ".join(text[start:stop].split())


def is_speakable(text: str) -> bool:
    """Whether there is a letter or digit to be said."""
    return _SPEAKABLE.search(text) is not None
