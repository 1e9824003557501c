import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from megatron_speech.data import indexed
from megatron_speech.data.indexed import IndexedWriter, open_indexed, open_tokens, read_index
from megatron_speech.data.indexed_files import read_facts
from megatron_speech.errors import DataError
from tests.interleaving.samples import make_vocab


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    return make_vocab(tmp_path_factory.mktemp("vocab"))


def random_documents(seed: int, top: int, count: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, top, rng.integers(1, 30)) for _ in range(count)]


def write(prefix, vocab, documents, kind="text"):
    with IndexedWriter(prefix, vocab) as writer:
        writer.add_documents(documents[:7])
        writer.add_documents(documents[7:])
    writer.write_facts(kind, None)


@pytest.mark.parametrize("padded_size", [1024, 65499, 65500, 170_000])
def test_files_equal_those_of_megatron_byte_for_byte(vocab, tmp_path, padded_size):
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    sized = dataclasses.replace(vocab, padded_size=padded_size)
    documents = random_documents(padded_size, padded_size)
    write(tmp_path / "ours", sized, documents)
    builder = IndexedDatasetBuilder(
        str(tmp_path / "core.bin"), dtype=DType.optimal_dtype(padded_size)
    )
    for document in documents:
        builder.add_document(torch.tensor(document), [len(document)])
    builder.finalize(str(tmp_path / "core.idx"))
    for suffix in (".bin", ".idx"):
        ours, core = (Path(f"{tmp_path / name}{suffix}").read_bytes() for name in ("ours", "core"))
        assert ours == core


def test_reads_back_by_megatron_and_by_the_light_reader(vocab, tmp_path):
    documents = random_documents(0, 1024)
    write(tmp_path / "a.b", vocab, documents)
    dataset = open_indexed(tmp_path / "a.b")
    assert [d.tolist() for d in dataset[0 : len(dataset)]] == [d.tolist() for d in documents]
    index, tokens = open_tokens(tmp_path / "a.b")
    for start, length, document in zip(index.starts, index.lengths, documents, strict=True):
        assert tokens[start : start + length].tolist() == document.tolist()


def test_joined_parts_equal_one_writing(vocab, tmp_path):
    documents = random_documents(3, 1024, 50)
    write(tmp_path / "whole", vocab, documents)
    write(tmp_path / "p0", vocab, documents[:20])
    write(tmp_path / "p1", vocab, [])
    write(tmp_path / "p2", vocab, documents[20:])
    with IndexedWriter(tmp_path / "joined", vocab) as writer:
        for part in ("p0", "p1", "p2"):
            writer.add_indexed(tmp_path / part)
    writer.write_facts("text", None)
    for suffix in (".bin", ".idx", ".json"):
        joined, whole = (Path(f"{tmp_path / n}{suffix}").read_bytes() for n in ("joined", "whole"))
        assert joined == whole


def test_facts_count_tokens_by_modality(vocab, tmp_path):
    document = np.concatenate([[5, 6], vocab.speech_segment([1, 2, 3])])
    write(tmp_path / "x", vocab, [document, np.array([7])], "interleaved")
    facts = read_facts(tmp_path / "x")
    assert (facts.documents, facts.text_tokens, facts.speech_tokens) == (2, 5, 3)
    assert (facts.loss_rule, facts.packing) == ("all", "cut")


@pytest.mark.parametrize(
    ("suffix", "keep"), [(".bin", 10), (".idx", 100), (".idx", 20), (".bin", 0)]
)
def test_a_file_cut_short_is_refused(vocab, tmp_path, suffix, keep):
    write(tmp_path / "x", vocab, random_documents(1, 1024))
    path = tmp_path / f"x{suffix}"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="build the dataset again"):
        read_index(tmp_path / "x")


def test_missing_files_are_named(vocab, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_indexed(tmp_path / "nothing")


def test_ids_outside_the_vocabulary_are_refused_and_leave_nothing(vocab, tmp_path):
    with (
        pytest.raises(DataError, match="do not fit a vocabulary of 1024"),
        IndexedWriter(tmp_path / "x", vocab) as writer,
    ):
        writer.add_documents([np.array([1, 1024])])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_half_written_dataset(vocab, tmp_path, monkeypatch):
    opened = []

    def open_full(path, mode):
        opened.append(path)
        return open("/dev/full" if ".bin." in str(path) else path, mode)

    monkeypatch.setattr(indexed, "open", open_full, raising=False)
    with pytest.raises(OSError, match="No space left") as raised:
        write(tmp_path / "x", vocab, random_documents(0, 1024, 4000))
    assert raised.value.errno == errno.ENOSPC
    assert opened
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_stays_until_another_is_written_in_its_place(vocab, tmp_path):
    documents = random_documents(0, 1024)
    write(tmp_path / "x", vocab, documents)
    with pytest.raises(RuntimeError), IndexedWriter(tmp_path / "x", vocab):
        raise RuntimeError
    assert read_facts(tmp_path / "x").documents == len(documents)
    read_index(tmp_path / "x")


def test_the_old_facts_go_before_the_old_files(vocab, tmp_path, monkeypatch):
    write(tmp_path / "x", vocab, random_documents(0, 1024))
    (tmp_path / "x.spans.parquet").write_text("of the old dataset")
    replaced, replace = [], os.replace

    def check_then_replace(source, target):
        assert not (tmp_path / "x.json").exists()
        assert not (tmp_path / "x.spans.parquet").exists()
        replaced.append(target.suffix)
        replace(source, target)

    with IndexedWriter(tmp_path / "x", vocab) as writer:
        writer.add_documents(random_documents(1, 1024))
        assert (tmp_path / "x.json").exists()
        monkeypatch.setattr(os, "replace", check_then_replace)
    assert sorted(replaced) == [".bin", ".idx"]
    with pytest.raises(DataError, match="missing"):
        read_facts(tmp_path / "x")


def test_documents_without_tokens_are_left_out_with_their_sources(vocab, tmp_path):
    with IndexedWriter(tmp_path / "x", vocab) as writer:
        writer.add(np.arange(5), [2, 0, 3, 0], ["a", "b", "c", "d"])
    writer.write_facts("text", None)
    assert read_index(tmp_path / "x").lengths.tolist() == [2, 3]
    assert pq.read_table(tmp_path / "x.sources.parquet")["source_id"].to_pylist() == ["a", "c"]
