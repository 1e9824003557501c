"""Which words of a document are to be spoken (paper, section 5). Pure numpy, whole batches.

Words (Poisson): lengths are drawn from a Poisson distribution without zero until they cover
ceil(eta x words) words, the last one clipped; then the spans are laid into the document
uniformly over all arrangements without overlap. Drawing all lengths first, and places second,
keeps long spans as likely as the distribution says: placing spans one after the other and
redrawing those that collide favours short ones. Nothing is redrawn, so it always ends.

Sentences: whole sentences in random order until the same number of words is covered; the one
that would overshoot is taken with the probability that makes the expected coverage exact.

Randomness is a hash of (seed, document id, purpose, counter): neither order nor workers nor the
batch a document happens to be in change its spans.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..jobs.randomness import random_bits, uniform
from .units import UnitName

_LENGTHS, _SWAP, _PLACES, _LAST_PLACES, _ORDER, _ROUNDING = range(1, 7)
_MAX_REDRAWS = 32
_LONGEST_MEAN_WORDS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class SpanConfig:
    """How much of a document is spoken, and in what pieces."""

    unit: UnitName = "word"
    """Spans of words (the paper), of the text's tokens (lengths below then count those, and words
    are cut), or whole phrases (these end at commas, semicolons and colons too), sentences or
    lines."""
    eta: float = 0.3
    """Share of a document's words to be spoken."""
    mean_span_words: float = 10.0
    """Lambda of the Poisson distribution of span lengths (unit word)."""
    min_span_words: int = 1
    """Shorter draws do not occur, and a last span clipped to less is added to the one before it;
    only a document with fewer words to speak has a shorter span (unit word)."""
    max_span_words: int | None = None
    """Longer draws do not occur (unit word)."""
    gap_words: int = 1
    """Least number of text words between spans, where the document has room (unit word)."""
    clip_last_span: bool = True
    """Cover exactly ceil(eta x words) words; without it the last span overshoots."""

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta is {self.eta}; expected a share between 0 and 1")
        if not 0 < self.mean_span_words <= _LONGEST_MEAN_WORDS:
            raise ConfigError(
                f"mean_span_words is {self.mean_span_words:g}; expected more than 0 and at most "
                f"{_LONGEST_MEAN_WORDS:,}"
            )
        if self.min_span_words < 1 or self.gap_words < 0:
            raise ConfigError("min_span_words must be at least 1 and gap_words at least 0")
        if self.max_span_words is not None and self.max_span_words < self.min_span_words:
            raise ConfigError("max_span_words is below min_span_words")


@dataclass(frozen=True)
class Spans:
    """Chosen spans of a batch, sorted; all arrays (n,), int64.

    `document` is an index into the batch; start and stop count units: words, or sentences.
    """

    document: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def target_words(words: np.ndarray, eta: float) -> np.ndarray:
    """ceil(eta x words), safe against 0.3 x 10 being 3.0000000000000004."""
    return np.minimum(np.ceil(words * eta - 1e-9).astype(np.int64), words)


def sample_word_spans(words: np.ndarray, keys: np.ndarray, config: SpanConfig) -> Spans:
    """Poisson spans for documents of `words` (n,) words with `keys` (n,) from `document_keys`."""
    words = words.astype(np.int64)
    targets = target_words(words, config.eta)
    lengths, counts = _draw_lengths(words, targets, keys, config)
    document, index = _ragged(counts)
    covered = np.bincount(document, lengths, len(words)).astype(np.int64)
    gaps = np.maximum(counts - 1, 0)
    # a document too full for gaps between its spans does without
    gap = np.where(words - covered - config.gap_words * gaps >= 0, config.gap_words, 0)
    free = words - covered - gap * gaps
    chosen = _choose(free + counts, counts, keys) - index
    before = np.cumsum(lengths) - lengths
    before -= np.repeat(_first(before, counts), counts)
    start = chosen + before + index * gap[document]
    return Spans(document, start, start + lengths)


def _length_table(config: SpanConfig) -> tuple[np.ndarray, float, float]:
    """Cumulative Poisson probabilities within the limits, with mean and variance."""
    rate, low = config.mean_span_words, config.min_span_words
    high = config.max_span_words or max(low, math.ceil(rate + 12 * math.sqrt(rate) + 20))
    values = np.arange(low, high + 1)
    log_factorial = np.array([math.lgamma(v + 1) for v in values])
    weights = values * math.log(rate) - log_factorial
    weights = np.exp(weights - weights.max())
    weights /= weights.sum()
    mean = float((weights * values).sum())
    return np.cumsum(weights), mean, float((weights * (values - mean) ** 2).sum())


def _draw_lengths(
    words: np.ndarray, targets: np.ndarray, keys: np.ndarray, config: SpanConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Span lengths of all documents, flat, and how many each document has."""
    cumulative, mean, variance = _length_table(config)
    draws = np.where(
        targets > 0, np.ceil(targets / mean + 5 * np.sqrt(targets * variance / mean**3)) + 4, 0
    ).astype(np.int64)
    while True:
        document, index = _ragged(draws)
        numbers = uniform(keys[document], _LENGTHS, index)
        lengths = np.searchsorted(cumulative, numbers, side="right") + config.min_span_words
        lengths = np.minimum(lengths, config.min_span_words + len(cumulative) - 1)
        before = np.cumsum(lengths) - lengths
        before -= np.repeat(_first(before, draws), draws)
        short = np.bincount(document, lengths, len(words)) < targets
        if not short.any():
            break
        draws = np.where(short, draws * 2, draws)  # rarer than one document in a million
    keep = before < targets[document]
    document, lengths, before = document[keep], lengths[keep], before[keep]
    limit = targets if config.clip_last_span else words
    lengths = np.minimum(lengths, limit[document] - before)
    lengths, document = _absorb_remainders(lengths, document, config.min_span_words)
    counts = np.bincount(document, minlength=len(words))
    # the clipped span is drawn last; it may stand anywhere
    some = counts > 0
    last = np.cumsum(counts)[some] - 1
    numbers = uniform(keys[some], _SWAP, np.zeros(len(last), np.int64))
    other = last - (numbers * counts[some]).astype(np.int64)
    lengths[last], lengths[other] = lengths[other], lengths[last]
    return lengths, counts


def _absorb_remainders(
    lengths: np.ndarray, document: np.ndarray, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Add spans below `least` to their document's span before (only last ones can be)."""
    if least == 1 or len(lengths) < 2:
        return lengths, document
    small = np.flatnonzero((lengths[1:] < least) & (document[1:] == document[:-1])) + 1
    lengths[small - 1] += lengths[small]
    keep = np.ones(len(lengths), bool)
    keep[small] = False
    return lengths[keep], document[keep]


def _choose(sizes: np.ndarray, counts: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """For each document a uniform subset of `counts` numbers below `sizes`, sorted, flat.

    Numbers are drawn independently and repeated ones drawn again. The procedure treats all
    numbers alike, so every subset is equally likely.
    """
    document, index = _ragged(counts)
    place = (uniform(keys[document], _PLACES, index) * sizes[document]).astype(np.int64)
    packed = np.sort(document << 32 | place)
    for attempt in range(1, _MAX_REDRAWS + 1):
        again = np.flatnonzero(packed[1:] == packed[:-1]) + 1
        if not len(again):
            return packed & 0xFFFFFFFF
        owner = document[again]
        rank = np.arange(len(again)) - np.searchsorted(owner, owner)
        numbers = uniform(keys[owner], _PLACES, (attempt << 32) + rank)
        packed[again] = owner << 32 | (numbers * sizes[owner]).astype(np.int64)
        packed.sort()
    # nearly full documents, where repeated draws would take long: order all places by a hash
    stops = np.cumsum(counts)
    for owner in np.unique(document[np.flatnonzero(packed[1:] == packed[:-1]) + 1]):
        order = np.arange(int(sizes[owner]))
        order = np.argsort(random_bits(keys[owner], _LAST_PLACES, order), kind="stable")
        taken = np.sort(order[: counts[owner]])
        packed[stops[owner] - counts[owner] : stops[owner]] = owner << 32 | taken
    return packed & 0xFFFFFFFF


def sample_group_spans(
    group_words: np.ndarray, groups: np.ndarray, keys: np.ndarray, config: SpanConfig
) -> Spans:
    """Whole groups (sentences, phrases or lines), one span each.

    `group_words` (s,) are the words of all groups of the batch, flat; `groups` (n,)
    says how many each document has; `keys` (n,) come from `document_keys`.
    """
    document, index = _ragged(groups)
    words = np.bincount(document, group_words, len(groups)).astype(np.int64)
    targets = target_words(words, config.eta)
    order = np.lexsort((random_bits(keys[document], _ORDER, index), document))
    lengths = group_words[order].astype(np.int64)
    before = np.cumsum(lengths) - lengths
    before -= np.repeat(_first(before, groups), groups)
    room = targets[document] - before
    numbers = uniform(keys, _ROUNDING, np.zeros(len(keys), np.int64))[document]
    taken = room >= lengths
    taken |= (room > 0) & (numbers * lengths < room if config.clip_last_span else True)
    chosen = np.sort(order[taken])
    return Spans(document[chosen], index[chosen], index[chosen] + 1)


def skip_left_out(spans: Spans, kept: Sequence[np.ndarray]) -> Spans:
    """Spans drawn over the units that were kept, as spans of all units.

    `kept` has for each document of the batch which of its units (u,) were. A span with units left
    out between its own becomes several.
    """
    if all(mask.all() for mask in kept):
        return spans
    units = [np.flatnonzero(mask) for mask in kept]
    counts = np.array([len(each) for each in units], dtype=np.int64)
    first = (np.cumsum(counts) - counts)[spans.document] + spans.start
    owner, index = _ragged(spans.stop - spans.start)
    place = np.concatenate(units)[first[owner] + index]
    begins = np.ones(len(place), bool)
    begins[1:] = (owner[1:] != owner[:-1]) | (place[1:] != place[:-1] + 1)
    head = np.flatnonzero(begins)
    stop = place[np.append(head[1:], len(place))[: len(head)] - 1] + 1
    return Spans(spans.document[owner[head]], place[head], stop)


def _ragged(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Owner and position within the owner for `counts` items each."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _first(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The first of each owner's values; 0 for owners without any."""
    starts = np.minimum(np.cumsum(counts) - counts, max(len(values) - 1, 0))
    return values[starts] if len(values) else np.zeros(len(counts), np.int64)
