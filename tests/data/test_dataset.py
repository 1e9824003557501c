"""Windows of a blend: core's cutting, whole-document packing, masks, caches, bad input."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_speech.data.config import DataConfig, parse_blend
from megatron_speech.data.dataset import build_datasets
from megatron_speech.errors import ConfigError, DataError, VocabularyError
from megatron_speech.training.batch import separating_mask
from tests.data.language_data import make_vocab, random_documents, write_dataset

LENGTH = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def vocab(folder):
    return make_vocab(folder / "vocabulary")


@pytest.fixture(scope="module")
def documents(vocab):
    return random_documents(vocab, 200, seed=1)


@pytest.fixture(scope="module")
def cut(folder, vocab, documents):
    return write_dataset(folder / "cut", vocab, documents)


@pytest.fixture(scope="module")
def whole(folder, vocab, documents):
    return write_dataset(folder / "whole", vocab, documents, "speech_after_text", "whole")


def build(vocab, cache: Path, *data_path: str, samples=(40, 0), **settings):
    config = DataConfig(data_path=data_path, data_cache_path=cache, seq_length=LENGTH, **settings)
    return build_datasets(config, vocab, samples, seed=5)


def test_cut_windows_are_the_stream_of_documents(vocab, cut, documents, tmp_path):
    windows = build(vocab, tmp_path, cut).train
    known = {tuple(document) for document in documents}
    for index in range(10):
        item = windows[index]
        assert torch.equal(item["tokens"][1:], item["labels"][:-1])
        assert item["loss_mask"].all()
        assert not item["documents"].any()
        ids = item["tokens"].numpy()
        inner = np.split(ids, np.flatnonzero(ids == vocab.eod_id) + 1)[1:-1]
        assert all(tuple(document) in known for document in inner)


def test_packed_windows_hold_whole_documents_apart(vocab, whole, documents, tmp_path):
    datasets = build(vocab, tmp_path, whole)
    assert datasets.separate_documents
    known = {tuple(document) for document in documents}
    seen = 0
    for index in range(len(datasets.train)):
        item = {name: value.numpy() for name, value in datasets.train[index].items()}
        packed = item["documents"]
        for number in range(packed[-1] + 1):
            place = packed == number
            document = (*item["tokens"][place], item["labels"][place][-1])
            if document not in known:  # the padded tail
                assert number == packed[-1]
                assert not item["loss_mask"][place].any()
                continue
            seen += 1
            assert np.array_equal(item["position_ids"][place], np.arange(place.sum()))
            taken = item["labels"][place][item["loss_mask"][place] > 0]
            speech = vocab.is_speech(taken)
            assert speech[:-2].all()
            assert taken[-2:].tolist() == [vocab.end_of_audio_id, vocab.eod_id]
    assert seen >= 200


def test_documents_can_be_kept_apart_in_cut_windows_too(vocab, cut, tmp_path):
    item = build(vocab, tmp_path, cut, reset_attention_mask=True).train[0]
    ends = item["tokens"] == vocab.eod_id
    assert ends.any()
    starts = torch.diff(item["documents"]) == 1
    assert torch.equal(starts, ends[:-1])
    assert not item["loss_mask"][:-1][starts].any()
    assert not item["position_ids"][1:][starts].any()


def test_blend_mixes_cut_and_whole_by_weight(vocab, cut, whole, tmp_path):
    blend = build(vocab, tmp_path, "0.75", cut, "0.25", whole, samples=(400, 0)).train
    share = np.mean([blend[index]["dataset_id"] for index in range(400)])
    assert share == pytest.approx(0.25, abs=0.02)
    assert blend[0].keys() == blend[399].keys()


def test_same_windows_from_a_fresh_cache(vocab, cut, whole, tmp_path):
    first = build(vocab, tmp_path / "a", "1", cut, "2", whole).train
    second = build(vocab, tmp_path / "b", "1", cut, "2", whole).train
    for index in range(40):
        for name, value in first[index].items():
            assert np.array_equal(value, second[index][name])


def test_dataset_rebuilt_in_place_is_not_read_by_stale_indices(vocab, tmp_path, documents):
    prefix = write_dataset(tmp_path / "data", vocab, documents)
    build(vocab, tmp_path / "cache", prefix)
    write_dataset(tmp_path / "data", vocab, documents[:50])
    windows = build(vocab, tmp_path / "cache", prefix).train
    known = {tuple(document) for document in documents[:50]}
    ids = torch.cat([windows[index]["tokens"] for index in range(1)]).numpy()
    inner = np.split(ids, np.flatnonzero(ids == vocab.eod_id) + 1)[1:-1]
    assert all(tuple(document) in known for document in inner)


def test_validation_by_split_shares_no_document(vocab, whole, tmp_path):
    datasets = build(vocab, tmp_path, whole, samples=(30, 4), split="80,20")
    train = {int(d) for d in datasets.train.document_index}
    valid = {int(d) for d in datasets.valid.document_index}
    assert len(valid) == 40
    assert not train & valid


def test_too_long_documents_are_counted(vocab, tmp_path, documents, capsys):
    long = np.concatenate([documents[0][:-1]] * 10 + [[vocab.eod_id]])
    prefix = write_dataset(tmp_path / "d", vocab, [*documents, long], "all", "whole")
    assert build(vocab, tmp_path, prefix).train.left_out == 1
    assert "1 of 201 documents are longer than --seq-length 64" in capsys.readouterr().err


def test_separating_mask_by_hand():
    mask = separating_mask(torch.tensor([[0, 0, 1]]))
    visible = ~mask[0, 0]
    assert visible.int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_blend_notation():
    assert parse_blend(["a", "b"], "--data-path") == (["a", "b"], None)
    assert parse_blend(["0.3", "a", "7", "b"], "--data-path") == (["a", "b"], [0.3, 7.0])
    for wrong in (["0.3", "a", "b"], ["0.3", "a", "x", "b"], ["0", "a"]):
        with pytest.raises(ConfigError, match="--data-path"):
            parse_blend(wrong, "--data-path")


def damage(prefix: str, suffix: str, change) -> str:
    path = Path(prefix + suffix)
    path.write_bytes(change(path.read_bytes()))
    return prefix


BAD_FILES = {
    "missing": (lambda p: p + "x", "does not exist"),
    "bin cut short": (lambda p: damage(p, ".bin", lambda data: data[:-2]), "cut short"),
    "idx cut short": (lambda p: damage(p, ".idx", lambda data: data[:-8]), "cut short"),
    "no index": (lambda p: damage(p, ".idx", lambda data: b"x" * len(data)), "no Megatron index"),
    "no facts": (lambda p: Path(p + ".json").unlink() or p, "is missing"),
    "odd rule": (
        lambda p: damage(p, ".json", lambda data: data.replace(b'"all"', b'"some"')),
        "loss_rule",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_damaged_dataset_is_refused(name, vocab, documents, tmp_path):
    break_it, message = BAD_FILES[name]
    prefix = break_it(write_dataset(tmp_path / "data", vocab, documents))
    with pytest.raises(DataError, match=message):
        build(vocab, tmp_path, prefix)


def test_other_vocabulary_is_refused(vocab, documents, tmp_path):
    other = make_vocab(tmp_path, extra=["<|user|>"])
    prefix = write_dataset(tmp_path / "data", other, documents)
    with pytest.raises(VocabularyError, match=other.fingerprint):
        build(vocab, tmp_path, prefix)


def test_codes_of_two_tokenizers_are_refused(vocab, documents, tmp_path):
    first = write_dataset(tmp_path / "a", vocab, documents)
    second = write_dataset(tmp_path / "b", vocab, documents, tokenizer_fingerprint="codes-b")
    with pytest.raises(DataError, match=r"codes-a.*codes-b"):
        build(vocab, tmp_path, first, second)


def test_documents_that_never_fit_are_refused(vocab, whole, tmp_path):
    config = DataConfig(data_path=(whole,), data_cache_path=tmp_path, seq_length=8)
    with pytest.raises(DataError, match="no document fits"):
        build_datasets(config, vocab, (4, 0), seed=0)


def test_split_and_validation_data_exclude_each_other(vocab, cut, tmp_path):
    config = DataConfig(data_path=(cut,), valid_data_path=(cut,), data_cache_path=tmp_path)
    with pytest.raises(ConfigError, match="--split"):
        build_datasets(replace(config, split="9,1"), vocab, (4, 4), seed=0)
