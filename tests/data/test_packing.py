"""Packing of whole documents: nothing split, nothing twice, nothing lost, windows well filled."""

import time
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megatron_speech.data.packing import pack_documents

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=200)


@given(lengths=LENGTHS, capacity=st.integers(1, 40), seed=st.integers(0, 9))
def test_each_fitting_document_once_and_no_window_over_full(lengths, capacity, seed):
    lengths = np.array(lengths)
    order = np.random.default_rng(seed).permutation(len(lengths))
    documents, starts = pack_documents(lengths, capacity, order)
    assert sorted(documents) == [i for i, n in enumerate(lengths) if 0 < n <= capacity]
    assert starts[0] == 0
    assert starts[-1] == len(documents)
    for first, last in pairwise(starts):
        assert 0 < lengths[documents[first:last]].sum() <= capacity


@given(lengths=LENGTHS, capacity=st.integers(1, 40))
def test_no_document_would_fit_an_earlier_open_window(lengths, capacity):
    """With few windows none is ever closed, so two half-empty ones cannot remain."""
    lengths = np.array(lengths[:40])
    documents, starts = pack_documents(lengths, capacity, np.arange(len(lengths)))
    fill = [lengths[documents[a:b]].sum() for a, b in pairwise(starts)]
    assert sum(2 * filled <= capacity for filled in fill) <= 1


def test_windows_of_short_documents_are_nearly_full():
    lengths = np.random.default_rng(0).integers(20, 120, 5000)
    documents, starts = pack_documents(lengths, 256, np.arange(5000))
    assert lengths[documents].sum() / ((len(starts) - 1) * 256) > 0.97


@given(lengths=LENGTHS, capacity=st.integers(1, 40), seed=st.integers(0, 9))
def test_the_order_deals_out_documents_of_one_length(lengths, capacity, seed):
    """Another order packs other documents, into windows of the same lengths."""
    lengths = np.array(lengths)
    first, starts = pack_documents(lengths, capacity, np.arange(len(lengths)))
    order = np.random.default_rng(seed).permutation(len(lengths))
    second, same_starts = pack_documents(lengths, capacity, order)
    assert np.array_equal(starts, same_starts)
    assert np.array_equal(lengths[first], lengths[second])
    for length in np.unique(lengths[first]):
        expected = [document for document in order if lengths[document] == length]
        assert [document for document in second if lengths[document] == length] == expected


def test_nothing_that_fits_gives_no_windows():
    documents, starts = pack_documents(np.array([9, 9]), 5, np.arange(2))
    assert len(documents) == 0
    assert starts.tolist() == [0]


def test_the_plan_does_not_grow_with_the_corpus():
    """A thousand times the documents, the same lengths: the same windows, a thousand times."""
    lengths = np.random.default_rng(0).integers(20, 120, 1000)
    few, few_starts = pack_documents(lengths, 256, np.arange(1000))
    lengths = np.tile(lengths, 1000)
    began = time.process_time()
    many, many_starts = pack_documents(lengths, 256, np.arange(len(lengths)))
    assert time.process_time() - began < 5  # one document at a time takes longer
    assert len(many) == 1000 * len(few)
    assert len(many_starts) - 1 <= 1000 * (len(few_starts) - 1)
