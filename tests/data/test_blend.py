"""A schedule of blends: every dataset is read on from where it was, whatever came between."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from megatron_speech.data.blend import BlendPosition, draw
from megatron_speech.data.config import DataConfig
from megatron_speech.data.dataset import Continuation, build_datasets
from tests.data.language_data import make_vocab, random_documents, write_dataset

BATCHES = "4 x 64"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("blends")


@pytest.fixture(scope="module")
def vocab(folder):
    return make_vocab(folder / "vocabulary")


@pytest.fixture(scope="module")
def prefixes(folder, vocab):
    documents = [random_documents(vocab, 120, seed=seed) for seed in range(3)]
    return {
        "a": write_dataset(folder / "a", vocab, documents[0]),
        "b": write_dataset(folder / "b", vocab, documents[1], "all", "whole"),
        "c": write_dataset(folder / "c", vocab, documents[2]),
    }


def build(vocab, folder, blend, samples, stored=None, batches=BATCHES, next_sample=0):
    config = DataConfig(
        data_path=tuple(blend.split()), data_cache_path=folder / "cache", seq_length=64
    )
    going_on = Continuation(stored=stored, batches=batches, next_sample=next_sample)
    datasets = build_datasets(config, vocab, (samples, 0), 5, going_on)
    return datasets.train, dict(datasets.position)


def reads(blend, indices):
    """Which windows of which dataset: a dataset of one blend is known by its first window."""
    return [tuple(blend[index]["tokens"].tolist()) for index in indices]


def test_after_a_change_each_dataset_is_read_on_without_gap_or_repetition(folder, vocab, prefixes):
    a, b, c = prefixes["a"], prefixes["b"], prefixes["c"]
    schedule = [(f"1 {a}", 10), (f"0.5 {a} 0.5 {b}", 30), (f"1 {c}", 36), (f"0.2 {b} 0.8 {a}", 56)]
    stored, first, seen = None, 0, defaultdict(list)
    for blend, last in schedule:
        windows, position = build(vocab, folder, blend, 60, stored)
        for index in range(first, last):
            chosen = windows[index]["dataset_id"]
            name = list(position["weights"])[chosen]
            seen[name].append(tuple(windows[index]["tokens"].tolist()))
        stored, first = {**position, "consumed_samples": last}, last
    alone = [build(vocab, folder, prefix, 60)[0] for prefix in (a, b, c)]
    for windows in alone:
        name = next(iter(windows.position.weights))
        assert seen[name] == reads(windows, range(len(seen[name])))
    assert Counter({name: len(read) for name, read in seen.items()}).total() == 56


def test_the_same_blend_goes_on_as_if_it_had_not_been_interrupted(folder, vocab, prefixes):
    blend = f"0.7 {prefixes['a']} 0.3 {prefixes['b']}"
    whole, position = build(vocab, folder, blend, 40)
    resumed, again = build(vocab, folder, blend, 90, {**position, "consumed_samples": 17})
    assert again == position
    assert reads(resumed, range(17, 40)) == reads(whole, range(17, 40))


def test_other_batches_go_on_in_the_data_where_they_were(folder, vocab, prefixes):
    blend = f"0.7 {prefixes['a']} 0.3 {prefixes['b']}"
    whole, position = build(vocab, folder, blend, 60)
    stored = {**position, "consumed_samples": 20}  # five steps of four, then steps of eight
    resumed, _ = build(vocab, folder, blend, 100, stored, "8 x 64", next_sample=40)
    for name, count in Counter(int(whole[i]["dataset_id"]) for i in range(20)).items():
        dataset = resumed.datasets[name]
        first = next(i for i in range(40, 60) if resumed[i]["dataset_id"] == name)
        assert torch.equal(resumed[first]["tokens"], dataset[count]["tokens"])


def test_a_dataset_that_moved_is_known(folder, vocab, prefixes, tmp_path):
    for suffix in (".bin", ".idx", ".json"):
        source = folder / f"a{suffix}"
        (tmp_path / source.name).write_bytes(source.read_bytes())
    windows, position = build(vocab, folder, prefixes["a"], 20)
    moved, same = build(
        vocab, tmp_path, str(tmp_path / "a"), 20, {**position, "consumed_samples": 9}
    )
    assert same == position
    assert reads(moved, range(9, 20)) == reads(windows, range(9, 20))


def test_a_checkpoint_that_says_nothing_begins_at_the_first_window():
    fresh = BlendPosition.follow({"consumed_samples": 8}, {"a": 1.0}, BATCHES, 8)
    assert (fresh.first_sample, fresh.offsets) == (0, {})


def test_a_longer_draw_begins_with_the_shorter_one():
    weights = [0.61, 0.3, 0.09]
    short, long = draw(weights, 100), draw(weights, 5000)
    assert all(np.array_equal(a, b[:100]) for a, b in zip(short, long, strict=True))
    shares = np.bincount(long[0]) / 5000
    assert shares == pytest.approx(weights, abs=1e-3)
