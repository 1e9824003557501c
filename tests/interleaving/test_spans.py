import dataclasses
import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_speech.errors import ConfigError
from megatron_speech.interleaving.spans import (
    SpanConfig,
    sample_group_spans,
    sample_word_spans,
    target_words,
)
from megatron_speech.interleaving.units import UNITS, UnitName
from megatron_speech.jobs.randomness import document_keys

CONFIGS = st.builds(
    SpanConfig,
    eta=st.floats(0, 1),
    mean_span_words=st.floats(0.5, 20),
    min_span_words=st.integers(1, 5),
    max_span_words=st.none() | st.integers(5, 30),
    gap_words=st.integers(0, 3),
    clip_last_span=st.booleans(),
)


def keys_for(count: int, seed: int = 0) -> np.ndarray:
    return document_keys(seed, [f"document {number}" for number in range(count)])


def rows(spans, names=None):
    names = range(10**6) if names is None else names
    return sorted(
        (int(names[d]), int(a), int(b))
        for d, a, b in zip(spans.document, spans.start, spans.stop, strict=True)
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=30), CONFIGS)
def test_spans_lie_in_their_document_apart_and_cover_the_target(words, config):
    words = np.array(words)
    spans = sample_word_spans(words, keys_for(len(words)), config)
    assert (spans.start >= 0).all()
    assert (spans.stop > spans.start).all()
    assert (spans.stop <= words[spans.document]).all()
    same = spans.document[1:] == spans.document[:-1]
    assert (np.diff(spans.document) >= 0).all()
    assert (spans.start[1:] >= spans.stop[:-1])[same].all()
    covered = np.bincount(spans.document, spans.stop - spans.start, len(words))
    target = target_words(words, config.eta)
    if config.clip_last_span:
        assert (covered == target).all()
    else:
        assert (covered >= target).all()
    if config.gap_words <= 1 and config.eta < 0.4:
        assert (spans.start[1:] - spans.stop[:-1] >= config.gap_words)[same].all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 120), min_size=2, max_size=20), CONFIGS, st.randoms())
def test_order_and_batch_change_nothing(words, config, random):
    words, keys = np.array(words), keys_for(len(words))
    together = rows(sample_word_spans(words, keys, config))
    order = np.array(random.sample(range(len(words)), len(words)))
    assert rows(sample_word_spans(words[order], keys[order], config), order) == together
    alone = [
        row
        for number in range(len(words))
        for row in rows(
            sample_word_spans(words[[number]], keys[[number]], config), np.array([number])
        )
    ]
    assert sorted(alone) == together


def test_minimum_length_holds_for_every_span_of_a_long_enough_document():
    config = SpanConfig(min_span_words=3, max_span_words=12)
    words = np.full(2000, 45)
    spans = sample_word_spans(words, keys_for(2000), config)
    lengths = spans.stop - spans.start
    assert lengths.min() >= 3
    assert lengths.max() <= 12 + 2
    assert (np.bincount(spans.document, lengths) == 14).all()


def test_lengths_are_poisson_and_coverage_is_eta():
    config = SpanConfig(eta=0.3, mean_span_words=10, clip_last_span=False)
    words = np.random.default_rng(0).integers(5000, 7000, 300)
    spans = sample_word_spans(words, keys_for(300), config)
    lengths = spans.stop - spans.start
    # Wald: over whole documents, the unclipped draws have the distribution's mean
    mean = 10 / (1 - math.exp(-10))
    assert abs(lengths.mean() - mean) < 4 * math.sqrt(10 / len(lengths))
    assert abs(lengths.var() - 10) < 4 * 10 * math.sqrt(2.1 / len(lengths))
    spans = sample_word_spans(
        words, keys_for(300), dataclasses.replace(config, clip_last_span=True)
    )
    covered = np.bincount(spans.document, spans.stop - spans.start)
    assert (covered == np.ceil(0.3 * words - 1e-9)).all()


def test_clipped_draws_left_out_the_mean_is_lambda():
    config = SpanConfig()
    words = np.full(400, 6000)
    clipped = sample_word_spans(words, keys_for(400), config)
    whole = sample_word_spans(
        words, keys_for(400), dataclasses.replace(config, clip_last_span=False)
    )
    # the same draws; a document's multiset of lengths differs in its last draw only
    assert len(clipped.start) == len(whole.start)
    kept = []
    for number in range(400):
        ours = np.sort((clipped.stop - clipped.start)[clipped.document == number])
        theirs = np.sort((whole.stop - whole.start)[whole.document == number])
        assert 0 <= (theirs - ours).sum() < 40
        kept.append(np.delete(ours, ours.argmin()) if (theirs != ours).any() else ours)
    lengths = np.concatenate(kept)
    assert abs(lengths.mean() - 10) < 0.1


def test_every_place_is_equally_likely():
    config = SpanConfig(
        eta=0.25, mean_span_words=2, max_span_words=2, min_span_words=2, gap_words=0
    )
    count = 60_000
    spans = sample_word_spans(np.full(count, 8), keys_for(count), config)
    places = np.bincount(spans.start, minlength=7)
    assert places.sum() == count
    expected = count / 7
    assert (abs(places - expected) < 4.5 * math.sqrt(expected)).all()


def test_every_arrangement_of_several_spans_is_equally_likely():
    config = SpanConfig(eta=0.5, mean_span_words=1, max_span_words=1, gap_words=0)
    count = 60_000
    spans = sample_word_spans(np.full(count, 6), keys_for(count), config)
    chosen = np.bincount(spans.document, 1 << spans.start, count).astype(int)
    arrangements, seen = np.unique(chosen, return_counts=True)
    assert len(arrangements) == math.comb(6, 3)
    assert (abs(seen - count / 20) < 4.5 * math.sqrt(count / 20)).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 30), max_size=12), min_size=1, max_size=10),
    st.floats(0, 1),
    st.booleans(),
)
def test_sentences_are_whole_distinct_and_near_the_target(documents, eta, clip):
    config = SpanConfig(unit="sentence", eta=eta, clip_last_span=clip)
    counts = np.array([len(d) for d in documents])
    flat = np.array([w for d in documents for w in d], dtype=np.int64)
    spans = sample_group_spans(flat, counts, keys_for(len(documents)), config)
    assert (spans.stop == spans.start + 1).all()
    assert len(set(rows(spans))) == len(spans.start)
    for number, document in enumerate(documents):
        chosen = spans.start[spans.document == number]
        words = np.array(document, dtype=np.int64)
        target = target_words(np.array([words.sum()]), eta)[0]
        slack = words.max(initial=0)
        assert abs(words[chosen].sum() - target) < max(slack, 1)
        assert clip or words[chosen].sum() >= target


def test_sentence_coverage_is_eta_on_average():
    rng = np.random.default_rng(0)
    counts = rng.integers(2, 6, 20_000)
    words = rng.integers(3, 15, counts.sum())
    config = SpanConfig(unit="sentence")
    spans = sample_group_spans(words, counts, keys_for(len(counts)), config)
    first = np.cumsum(counts) - counts
    covered = words[first[spans.document] + spans.start].sum()
    owner = np.repeat(np.arange(len(counts)), counts)
    target = target_words(np.bincount(owner, words).astype(int), 0.3).sum()
    assert abs(covered / target - 1) < 0.01


def test_keys_depend_on_seed_and_id_alone():
    first = document_keys(1, ["a", "b"])
    assert document_keys(1, ["b", "a"])[::-1].tolist() == first.tolist()
    assert not set(first) & set(document_keys(2, ["a", "b"]))
    # frozen: a change here would silently re-cut every corpus
    assert document_keys(1, ["a"]).tolist() == [4432693205339462510]
    spans = sample_word_spans(np.array([40]), document_keys(1, ["a"]), SpanConfig())
    assert rows(spans) == [(0, 4, 6), (0, 7, 17)]


@pytest.mark.parametrize(
    "bad",
    [
        {"eta": 1.2},
        {"mean_span_words": 0},
        {"min_span_words": 0},
        {"min_span_words": 5, "max_span_words": 4},
        {"mean_span_words": float("inf")},
        {"mean_span_words": 1e14},
    ],
)
def test_settings_that_cannot_be(bad):
    with pytest.raises(ConfigError):
        SpanConfig(**bad)


def test_every_unit_can_be_asked_for():
    assert set(get_args(UnitName)) == set(UNITS)
