"""Windows of a blend: core's cutting, whole-document packing, masks, caches, bad input."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from megatron_speech.data.config import DataConfig, parse_blend
from megatron_speech.data.dataset import build_datasets
from megatron_speech.errors import ConfigError, DataError, VocabularyError
from megatron_speech.training.megatron.batch import separating_mask
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


def assert_same(first, second, indices):
    for index in indices:
        for name, value in first[index].items():
            assert torch.equal(value, second[index][name]), (index, name)


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
    datasets = build(vocab, tmp_path, whole, samples=(120, 0))
    assert datasets.separate_documents
    known = {tuple(document) for document in documents}
    seen = 0
    for index in range(len(datasets.train)):
        item = {name: value.numpy() for name, value in datasets.train[index].items()}
        assert item["dataset_id"] == 0
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
    assert_same(first, second, range(40))


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
    train, valid = (
        set(blend.datasets[0].documents) for blend in (datasets.train, datasets.valid[""])
    )
    assert (len(train), len(valid)) == (160, 40)
    assert not train & valid


def test_too_long_documents_are_counted(vocab, tmp_path, documents, capsys):
    long = np.concatenate([documents[0][:-1]] * 10 + [[vocab.eod_id]])
    prefix = write_dataset(tmp_path / "d", vocab, [*documents, long], "all", "whole")
    assert build(vocab, tmp_path, prefix).train.datasets[0].left_out == 1
    assert "1 of 201 documents are longer than --seq-length 64" in capsys.readouterr().err


def test_separating_mask_by_hand():
    mask = separating_mask(torch.tensor([[0, 0, 1]]))
    visible = ~mask[0, 0]
    assert visible.int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_blend_notation():
    assert parse_blend(["a", "b"], "--data-path") == (["a", "b"], None)
    assert parse_blend(["0.3", "a", "7", "b"], "--data-path") == (["a", "b"], [0.3, 7.0])
    assert parse_blend(["0", "a", "7", "b"], "--data-path") == (["b"], [7.0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["0.3", "a", "b"], "expected weight and prefix in turn"),
        (["0.3", "a", "x", "b"], "'x' 'b' is no such pair"),
        (["0,3", "a", "0.7", "b"], "'0,3' 'a' is no such pair"),
        (["0.3", "a", "0.7"], "expected weight and prefix in turn"),
        (["0", "a"], "not all 0"),
        (["-1", "a", "2", "b"], "0 or more"),
        (["nan", "a"], "0 or more"),
        (["1", "a", "2", "a"], "names a twice"),
    ],
)
def test_blends_that_cannot_be_read(wrong, message):
    with pytest.raises(ConfigError, match=f"--data-path.*{message}"):
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


def test_windows_are_cut_as_megatron_cuts_them(vocab, cut, tmp_path):
    """Over the documents in one order, core's GPTDataset has the same windows."""
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

    ours = build(vocab, tmp_path, cut).train.datasets[0]
    epoch = ours._epochs[0]
    settings = GPTDatasetConfig(
        random_seed=0,
        sequence_length=LENGTH,
        split="1",
        tokenizer=SimpleNamespace(eod=0, vocab_size=vocab.padded_size, unique_identifiers={}),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        path_to_cache=str(tmp_path),
    )
    documents = np.arange(200, dtype=np.int32)
    theirs = GPTDataset(IndexedDataset(cut), cut, documents, None, Split.train, settings)
    theirs.document_index, theirs.sample_index = epoch.documents, epoch.starts
    theirs.shuffle_index = epoch.order
    assert len(ours) == len(epoch.order) == len(theirs)
    for window in range(len(ours)):
        for name in ("tokens", "labels", "loss_mask"):
            assert torch.equal(ours[window][name], theirs[window][name])


def test_every_epoch_reads_every_document_and_has_its_own_order(vocab, cut, whole, tmp_path):
    for prefix in (cut, whole):
        dataset = build(vocab, tmp_path, prefix, samples=(400, 0)).train.datasets[0]
        assert len(dataset._epochs) > 2
        for epoch in dataset._epochs:
            assert sorted(epoch.documents) == list(range(200))
            assert sorted(epoch.order) == list(range(len(epoch.order)))
        assert not np.array_equal(dataset._epochs[0].documents, dataset._epochs[1].documents)


def test_a_longer_run_begins_with_the_shorter_one(vocab, cut, whole, tmp_path):
    short = build(vocab, tmp_path / "a", "1", cut, "2", whole, samples=(40, 0)).train
    long = build(vocab, tmp_path / "b", "1", cut, "2", whole, samples=(900, 0)).train
    assert_same(short, long, range(40))


def test_documents_of_less_than_a_window_are_read_again(vocab, documents, tmp_path):
    prefix = write_dataset(tmp_path / "data", vocab, documents[:1])
    item = build(vocab, tmp_path, prefix).train[39]
    assert set(item["tokens"].tolist()) <= set(documents[0].tolist())


def test_without_weights_each_dataset_is_passed_over_alike(vocab, cut, documents, tmp_path):
    large = write_dataset(tmp_path / "data", vocab, documents * 3)
    blend = build(vocab, tmp_path, cut, large, samples=(400, 0)).train
    assert np.mean([blend[i]["dataset_id"] for i in range(400)]) == pytest.approx(0.75, abs=0.02)


def test_a_cache_that_was_being_written_is_not_read(vocab, cut, tmp_path):
    whole = build(vocab, tmp_path / "a", cut).train
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a").glob("*.npy"):  # killed at its last file
        (tmp_path / "b" / f".{path.name}.7.part").write_bytes(path.read_bytes()[:50])
    assert_same(whole, build(vocab, tmp_path / "b", cut).train, range(40))


def test_validation_sets_by_name(vocab, cut, whole, tmp_path):
    paths = {"valid_data_path": (cut, whole), "test_data_path": (whole,)}
    settings = {**paths, "multiple_validation_sets": True}
    datasets = build(vocab, tmp_path, cut, samples=(4, 6), **settings)
    assert list(datasets.valid) == ["cut", "whole"]
    assert [len(windows) for windows in datasets.valid.values()] == [6, 6]
    assert_same(datasets.valid["whole"], datasets.test, range(6))


def test_blends_from_files(vocab, cut, whole, tmp_path):
    listed, splits = tmp_path / "blend", tmp_path / "splits.json"
    listed.write_text(f"0.3 {cut}  # text\n0.7 {whole}\n")
    splits.write_text(json.dumps({"train": [0.3, cut, 0.7, whole], "valid": [cut]}))
    wanted = build(vocab, tmp_path, "0.3", cut, "0.7", whole, samples=(9, 0)).train
    for name, path in (("data_args_path", listed), ("per_split_data_args_path", splits)):
        assert_same(wanted, build(vocab, tmp_path, samples=(9, 3), **{name: path}).train, range(9))
    for config, message in (
        (DataConfig(data_args_path=tmp_path / "no"), "no cannot be read"),
        (DataConfig(data_args_path=listed, data_path=(cut,)), "give one of them"),
        (DataConfig(per_split_data_args_path=listed), "is no JSON"),
    ):
        with pytest.raises(ConfigError, match=message):
            config.resolve()


def test_mock_data_needs_no_files(vocab, tmp_path):
    windows = build(vocab, tmp_path, mock_data=True).train
    item, again = windows[7], windows[7]
    assert torch.equal(item["tokens"][1:], item["labels"][:-1])
    assert torch.equal(item["tokens"], again["tokens"])
    assert 0.3 < vocab.is_speech(item["tokens"].numpy()).mean() < 0.7
    with pytest.raises(ConfigError, match="--mock-data takes the place"):
        build(vocab, tmp_path, "a", mock_data=True)


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


def test_vocabularies_that_differ_are_named(vocab, cut, documents, tmp_path):
    other = make_vocab(tmp_path, extra=["<|user|>"])
    prefix = write_dataset(tmp_path / "data", other, documents)
    with pytest.raises(VocabularyError, match=rf"{prefix} was made .*{vocab.fingerprint}.* 1 of 2"):
        build(vocab, tmp_path, cut, prefix)


def test_a_missing_dataset_is_named_with_its_neighbours(vocab, cut, tmp_path):
    with pytest.raises(DataError, match=rf"cutt.idx does not exist.*nearest there: {cut}"):
        build(vocab, tmp_path, cut + "t")
    with pytest.raises(DataError, match="holds no dataset"):
        build(vocab, tmp_path, str(tmp_path / "text"))


def test_documents_that_never_fit_are_refused(vocab, whole, tmp_path):
    config = DataConfig(data_path=(whole,), data_cache_path=tmp_path, seq_length=8)
    with pytest.raises(DataError, match="no document fits"):
        build_datasets(config, vocab, (4, 0), seed=0)


def test_split_and_validation_data_exclude_each_other(vocab, cut, tmp_path):
    config = DataConfig(data_path=(cut,), valid_data_path=(cut,), data_cache_path=tmp_path)
    with pytest.raises(ConfigError, match="--split"):
        build_datasets(replace(config, split="9,1"), vocab, (4, 4), seed=0)
