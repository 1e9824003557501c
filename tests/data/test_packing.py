"""Packing of whole documents: nothing split, nothing twice, nothing lost, windows well filled."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megatron_speech.data.packing import pack_documents, pack_epochs

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


@given(lengths=LENGTHS, windows=st.integers(1, 60), more=st.integers(1, 60))
def test_a_longer_run_begins_with_the_shorter_one(lengths, windows, more):
    lengths = np.array(lengths)
    indices = np.arange(len(lengths))
    short = pack_epochs(lengths, 40, indices, windows, seed=3)
    long = pack_epochs(lengths, 40, indices, windows + more, seed=3)
    for a, b in zip(short, long, strict=True):
        assert np.array_equal(a, b[: len(a)])
    if (lengths > 0).any():
        assert len(short[2]) >= windows
        assert sorted(short[2]) == list(range(len(short[2])))


def test_nothing_that_fits_gives_no_windows():
    documents, starts, shuffle = pack_epochs(np.array([9, 9]), 5, np.arange(2), 10, seed=0)
    assert len(documents) == len(shuffle) == 0
    assert starts.tolist() == [0]
