import dataclasses

import numpy as np
import pytest

from megatron_speech.data.code_shards import CodeRecord, read_code_shards, write_code_shard
from megatron_speech.data.indexed_files import read_facts
from megatron_speech.data.templates import asr_document, speech_document, tts_document
from megatron_speech.datasets.speech import join_segments
from megatron_speech.errors import DataError, VocabularyError
from tests.interleaving.jobs import documents_of
from tests.interleaving.samples import INFO, make_vocab, write_codes, write_corpus
from tests.text_to_token.tiny_model import save_llama
from tools import build_dataset, inspect_dataset


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with vocabulary, corpus, codes and an untrained text-to-token model."""
    folder = tmp_path_factory.mktemp("world")
    vocab = make_vocab(folder)
    write_corpus(folder / "corpus.parquet", 30)
    write_codes(folder / "codes" / "a.parquet")
    save_llama(folder / "t2t", vocab)
    return folder, vocab


def build(world, kind, output, *flags, codes="codes"):
    files = ["--codes", str(world[0] / codes), "--vocab", str(world[0] / "vocab")]
    return build_dataset.main([kind, *files, "--output-prefix", str(output), *flags])


def test_speech_documents(world, tmp_path):
    _, records = read_code_shards(world[0] / "codes")
    facts = build(world, "speech", tmp_path / "s")
    expected = [speech_document(world[1], record.codes).tolist() for record in records]
    assert documents_of(tmp_path / "s") == expected
    assert (facts.kind, facts.packing, facts.tokenizer_fingerprint) == ("speech", "cut", "tok-a")
    assert facts.speech_tokens + 3 * facts.documents == sum(map(len, expected))


def test_joined_segments_are_whole_recordings(world, tmp_path):
    facts = build(world, "speech", tmp_path / "s", "--join-segments")
    assert facts.documents == 4
    _, records = read_code_shards(world[0] / "codes")
    codes = np.concatenate([record.codes for record in list(records)[:3]])
    assert documents_of(tmp_path / "s")[0] == speech_document(world[1], codes).tolist()


def test_only_segments_of_one_document_in_a_row_are_joined():
    names = ["a/000", "a/001", "b", "b/000", "b/001", "c", "c", "a/002", "x/y", "d/0", "d/2"]
    records = [CodeRecord(id=n, codes=np.array([i]), text=n) for i, n in enumerate(names)]
    joined = [(record.id, record.codes.tolist()) for record in join_segments(records)]
    assert joined == [
        ("a", [0, 1]),
        ("b", [2]),
        ("b", [3, 4]),
        ("c", [5]),
        ("c", [6]),
        ("a", [7]),
        ("x/y", [8]),
        ("d", [9]),
        ("d", [10]),  # segment 1 was set aside
    ]


def test_pairs_and_text_to_token(world, tmp_path):
    _, stream = read_code_shards(world[0] / "codes")
    records, vocab = list(stream), world[1]
    texts = [vocab.text.encode(record.text) for record in records]
    build(world, "pairs", tmp_path / "p")
    asr, tts = documents_of(tmp_path / "p-asr"), documents_of(tmp_path / "p-tts")
    pairs = list(zip(records, texts, strict=True))
    assert asr == [asr_document(vocab, record.codes, ids).tolist() for record, ids in pairs]
    assert tts == [tts_document(vocab, ids, record.codes).tolist() for record, ids in pairs]
    facts = build(world, "text-to-token", tmp_path / "t")
    assert documents_of(tmp_path / "t") == tts
    assert (facts.loss_rule, facts.packing) == ("speech_after_text", "whole")
    assert read_facts(tmp_path / "p-asr").loss_rule == "all"
    assert read_facts(tmp_path / "p-tts").packing == "whole"


def test_records_without_codes_or_text_are_set_aside(world, tmp_path):
    good = CodeRecord(id="good", codes=np.array([1]), text="Tom ran.")
    records = [
        good,
        dataclasses.replace(good, id="silent", codes=np.zeros(0, np.int64)),
        dataclasses.replace(good, id="mute", text=" "),
    ]
    write_code_shard(world[0] / "mixed" / "a.parquet", records, INFO)
    facts = build(world, "text-to-token", tmp_path / "t", codes="mixed")
    assert facts.documents == 1
    rejected = (tmp_path / "t.rejected.jsonl").read_text()
    assert '"id": "silent", "reason": "no_codes"' in rejected
    assert '"id": "mute", "reason": "no_text"' in rejected
    write_code_shard(world[0] / "useless" / "a.parquet", records[1:2], INFO)
    with pytest.raises(DataError, match="no usable record"):
        build(world, "speech", tmp_path / "u", codes="useless")
    assert not list(tmp_path.glob("u.*"))


def test_codes_that_do_not_belong_are_refused(world, tmp_path):
    with pytest.raises(DataError, match="expected tok-z"):
        build(world, "speech", tmp_path / "s", "--tokenizer-fingerprint", "tok-z")
    dataclasses.replace(world[1], speech_tokenizer="tok-z").save_pretrained(tmp_path / "z")
    with pytest.raises(DataError, match=r"codes of speech tokenizer tok-a, but .* of tok-z"):
        build(world, "speech", tmp_path / "s", "--vocab", str(tmp_path / "z"))
    write_codes(world[0] / "large" / "a.parquet", info=dataclasses.replace(INFO, num_codes=128))
    with pytest.raises(VocabularyError, match="codebook of 128"):
        build(world, "pairs", tmp_path / "s", codes="large")
    with pytest.raises(DataError, match="does not exist"):
        build(world, "speech", tmp_path / "s", codes="none.parquet")


def test_interleaved_in_one_command_and_again(world, tmp_path, capsys):
    folder = world[0]
    flags = ["interleaved", "--input", str(folder / "corpus.parquet"), "--tasks", "2"]
    flags += ["--vocab", str(folder / "vocab"), "--model", str(folder / "t2t")]
    flags += ["--like", str(folder / "codes"), "--output-prefix", str(tmp_path / "i")]
    flags += ["--temperature", "1", "--batch-size", "16", "--least-seconds-per-character", "0"]
    first = build_dataset.main(flags)
    assert first["documents"] == 30
    assert first["spans"] + sum(first["rejected"].values()) == first["generation"]["requests"]
    assert first["spans"] > 0
    content = (tmp_path / "i.bin").read_bytes()
    assert build_dataset.main(flags) == first
    assert (tmp_path / "i.bin").read_bytes() == content
    capsys.readouterr()
    page = tmp_path / "page.html"
    arguments = [str(tmp_path / "i"), "--vocab", str(folder / "vocab"), "--html", str(page)]
    shown = inspect_dataset.main([*arguments, "--documents", "30"])
    words = [run.spoken for runs in shown.documents for run in runs if run.kind == "speech"]
    assert len(words) == first["spans"]
    assert all(words)
    printed = capsys.readouterr().out
    assert f"{first['speech_tokens']:,} speech tokens" in printed
    assert page.read_text().count('class="speech"') == len(words)
