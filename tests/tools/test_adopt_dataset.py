"""Datasets written by core's own builder, as Megatron's tool writes them, taken over."""

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from megatron_speech.data.config import DataConfig
from megatron_speech.data.dataset import build_datasets
from megatron_speech.data.indexed import open_tokens
from megatron_speech.errors import DataError, VocabularyError
from megatron_speech.text.build_vocab import train_bpe
from megatron_speech.text.tokenizers import open_text_tokenizer
from megatron_speech.text.vocab import SpeechTextVocab
from tests.interleaving.samples import write_corpus
from tests.tools.pretraining import TINY
from tools import adopt_dataset, merge_datasets, preprocess_data, pretrain, verify_dataset


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A corpus, a tokenizer, a vocabulary so large that ids are int32, and both datasets of it."""
    folder = tmp_path_factory.mktemp("megatron")
    texts = write_corpus(folder / "corpus.parquet", 200)
    train_bpe(texts, 400, folder / "plain")
    train_bpe([text[::-1] for text in texts], 400, folder / "other")
    SpeechTextVocab.extend(folder / "plain", 66_000).save_pretrained(folder / "vocab")
    SpeechTextVocab.extend(folder / "other", 16).save_pretrained(folder / "other_vocab")
    write_as_megatron(folder / "theirs", texts, folder / "plain")
    flags = f"--input {folder / 'corpus.parquet'} --tokenizer-model {folder / 'vocab'} --append-eod"
    preprocess_data.main([*flags.split(), "--output-prefix", f"{folder}/ours"])
    adopt(folder, folder / "theirs")
    return folder


def write_as_megatron(prefix: Path, texts, tokenizer: Path, *, eod=True, sentences=False) -> Path:
    """What tools/preprocess_data.py of Megatron-LM does with texts; an empty one is a document."""
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    text_tokenizer = open_text_tokenizer(tokenizer)
    dtype = DType.optimal_dtype(text_tokenizer.size)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for text in texts:
        parts = text.split(". ") if sentences else [text]
        encoded = [ids for part in parts if (ids := text_tokenizer.encode(part))]
        if encoded and eod:
            encoded[-1].append(text_tokenizer.eod_id)
        builder.add_document(list(itertools.chain(*encoded)), [len(ids) for ids in encoded])
    builder.finalize(f"{prefix}.idx")
    return prefix


def adopt(world, prefix, *flags, tokenizer="plain"):
    files = ["--input", str(prefix), "--tokenizer-model", str(world / tokenizer)]
    return adopt_dataset.main([*files, *flags])


def test_batches_are_bitwise_those_of_the_same_data_written_here(world, tmp_path):
    theirs, ours = world / "theirs", world / "ours_text_document"
    assert open_tokens(theirs)[0].dtype == np.uint16
    assert open_tokens(ours)[0].dtype == np.int32
    batches = []
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    for prefix in (theirs, ours):
        config = DataConfig(
            vocab=world / "vocab",
            data_path=(str(prefix),),
            split="90,10",
            seq_length=32,
            data_cache_path=tmp_path / prefix.name,
        )
        datasets = build_datasets(config, vocab, (64, 4), seed=3)
        batches.append([datasets.train[n] for n in range(64)] + [datasets.valid[""][0]])
    for one, two in zip(*batches, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_training_on_them_gives_the_same_losses(world, tmp_path):
    results = []
    for prefix in ("theirs", "ours_text_document"):
        flags = f"--train-iters 3 --vocab {world / 'vocab'} --data-path {world / prefix}".split()
        save = ["--save", str(tmp_path / prefix)]
        results.append(pretrain.main([*TINY, *flags, *save]).metrics["lm loss"])
    assert results[0] == results[1]


def test_merged_and_verified_with_datasets_of_this_project(world, tmp_path):
    theirs, ours, vocab = world / "theirs", world / "ours_text_document", str(world / "vocab")
    both = {}
    for name, parts in {"mixed": (theirs, ours), "own": (ours, ours)}.items():
        flags = ["--vocab", vocab, "--output-prefix", str(tmp_path / name)]
        merge_datasets.main(["--input", *map(str, parts), *flags])
        both[name] = [(tmp_path / f"{name}{s}").read_bytes() for s in (".bin", ".idx")]
    assert both["mixed"] == both["own"]
    verify_dataset.main([str(theirs), str(tmp_path / "mixed"), "--vocab", vocab])
    sources = pq.read_table(tmp_path / "mixed.sources.parquet")["source_id"].to_pylist()
    assert sources[199:201] == ["theirs:199", "doc-0"]
    flags = ["--vocab", str(world / "plain"), "--output-prefix", str(tmp_path / "plain")]
    merge_datasets.main(["--input", str(ours), *flags])
    assert Path(f"{tmp_path}/plain.bin").read_bytes() == Path(f"{theirs}.bin").read_bytes()


def test_what_was_checked_is_said_and_a_second_time_changes_nothing(world, tmp_path, capsys):
    texts = write_corpus(tmp_path / "c.parquet", 20)
    prefix = write_as_megatron(tmp_path / "a", [*texts, ""], world / "plain")
    [found] = adopt(world, prefix)
    assert (found.facts.documents, found.ended, found.same_text) == (20, 20, 1.0)
    assert "20 end with the end token; 100.0% of the sampled" in capsys.readouterr().out
    written = Path(f"{prefix}.json").read_bytes()
    adopt(world, prefix, tokenizer="vocab")
    assert "has its .json already" in capsys.readouterr().out
    assert Path(f"{prefix}.json").read_bytes() == written
    with pytest.raises(VocabularyError, match="give the other, or remove"):
        adopt(world, prefix, tokenizer="other")


def test_another_tokenizer_is_noticed(world, tmp_path):
    texts = write_corpus(tmp_path / "c.parquet", 20)
    prefix = write_as_megatron(tmp_path / "a", texts, world / "other")
    with pytest.raises(VocabularyError, match="made with another tokenizer than"):
        adopt(world, prefix)
    assert not Path(f"{prefix}.json").exists()
    adopt(world, prefix, tokenizer="other_vocab")
    flags = ["--vocab", str(world / "vocab"), "--output-prefix", str(tmp_path / "merged")]
    with pytest.raises(VocabularyError, match="build all of them with one vocabulary"):
        merge_datasets.main(["--input", str(prefix), *flags])


def test_documents_without_an_end_token_are_taken_when_asked_for(world, tmp_path):
    texts = write_corpus(tmp_path / "c.parquet", 20)
    prefix = write_as_megatron(tmp_path / "a", texts, world / "plain", eod=False)
    with pytest.raises(DataError, match=r"0 of 20 documents .*--allow-missing-eod"):
        adopt(world, prefix)
    [found] = adopt(world, prefix, "--allow-missing-eod")
    assert found.ended == 0
    assert json.loads(Path(f"{prefix}.json").read_text())["append_eod"] is False
    verify_dataset.main([str(prefix), "--vocab", str(world / "vocab")])


def test_sentences_for_documents_are_refused(world, tmp_path):
    texts = write_corpus(tmp_path / "c.parquet", 20)
    prefix = write_as_megatron(tmp_path / "a", texts, world / "plain", sentences=True)
    with pytest.raises(DataError, match="several sequences per document"):
        adopt(world, prefix)


@pytest.mark.parametrize("token", [403, 500])
def test_ids_that_no_text_has_are_refused(world, tmp_path, token):
    """A special or a code of the vocabulary, in a document that is not in the sample."""
    prefix = write_as_megatron(tmp_path / "a", ["one text"] * 300, world / "plain")
    tokens = np.memmap(f"{prefix}.bin", np.uint16, "r+")
    tokens[len(tokens) // 300] = token
    tokens.flush()
    for tokenizer in ("plain", "vocab"):
        with pytest.raises(DataError, match="holds token ids"):
            adopt(world, prefix, tokenizer=tokenizer)
    assert not Path(f"{prefix}.json").exists()


def test_an_unfinished_dataset_of_this_project_is_no_foreign_one(world, tmp_path):
    prefix = write_as_megatron(tmp_path / "a", ["one text"], world / "plain")
    Path(f"{prefix}.sources.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="not finished"):
        adopt(world, prefix)
