import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, normalizers, processors

from megatron_speech.data import indexed
from megatron_speech.data.indexed import open_tokens
from megatron_speech.data.indexed_files import read_facts
from megatron_speech.datasets import text as text_documents
from megatron_speech.errors import DataError, VocabularyError
from megatron_speech.text import encoder as text_encoder
from megatron_speech.text.build_vocab import train_bpe
from megatron_speech.text.encoder import TextEncoder, agrees_on_characters, fast_engine
from megatron_speech.text.tokenizers import open_text_tokenizer
from megatron_speech.text.vocab import SpeechTextVocab
from tests.interleaving.samples import make_vocab, write_corpus
from tools import preprocess_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocab")
    return make_vocab(folder), str(folder / "vocab")


def run(vocab, corpus, output, *flags):
    files = ["--input", str(corpus), "--tokenizer-model", vocab[1], "--output-prefix", str(output)]
    return preprocess_data.main([*files, "--append-eod", *flags])


def test_documents_are_the_corpus_tokenised_in_order(vocab, tmp_path):
    texts = write_corpus(tmp_path / "c.parquet")
    [dataset] = run(vocab, tmp_path / "c.parquet", tmp_path / "out")
    assert dataset.prefix == tmp_path / "out_text_document"
    index, tokens = open_tokens(dataset.prefix)
    assert (dataset.documents, dataset.tokens) == (len(texts), len(tokens))
    for text, start, length in zip(texts, index.starts, index.lengths, strict=True):
        assert tokens[start : start + length].tolist() == [
            *vocab[0].text.encode(text),
            vocab[0].eod_id,
        ]


def test_workers_and_parts_do_not_change_a_byte(vocab, tmp_path, monkeypatch):
    texts = write_corpus(tmp_path / "c.parquet")
    records = [{"id": f"doc-{number}", "text": text} for number, text in enumerate(texts)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    run(vocab, tmp_path / "c.parquet", tmp_path / "a")
    monkeypatch.setattr(text_documents, "_PART_BYTES", 2000)
    run(vocab, tmp_path / "c.parquet", tmp_path / "b")
    run(vocab, tmp_path / "c.jsonl", tmp_path / "c", "--workers", "2")
    for suffix in (".bin", ".idx", ".json", ".sources.parquet"):
        files = [(tmp_path / f"{n}_text_document{suffix}").read_bytes() for n in "abc"]
        assert files[0] == files[1] == files[2]
    assert not list(tmp_path.glob("*.parts"))


def test_a_stopped_run_keeps_its_parts_and_others_parts_are_not_taken(vocab, tmp_path, monkeypatch):
    write_corpus(tmp_path / "c.parquet")
    monkeypatch.setattr(text_documents, "_PART_BYTES", 1000)
    run(vocab, tmp_path / "c.parquet", tmp_path / "whole")
    calls, encode = [], TextEncoder.encode

    def stop_in_the_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(TextEncoder, "encode", stop_in_the_third)
    for corpus in ("c.parquet", "other.parquet"):
        write_corpus(tmp_path / "other.parquet", seed=1)
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            run(vocab, tmp_path / "c.parquet", tmp_path / "a")
        [dataset] = run(vocab, tmp_path / corpus, tmp_path / "a")
        parts = -(-(tmp_path / corpus).stat().st_size // 1000)
        kept = 2 if corpus == "c.parquet" else 0
        assert len(calls) == 3 + parts - kept
        whole = (tmp_path / "whole_text_document.bin").read_bytes()
        assert (Path(f"{dataset.prefix}.bin").read_bytes() == whole) == (corpus == "c.parquet")


@pytest.fixture
def compared(monkeypatch):
    """Small corpora are worth comparing too."""
    monkeypatch.setattr(text_documents, "_WORTH_COMPARING_BYTES", 0)


ODD_TEXTS = [
    "plain words, 1234 times",
    "said <|endoftext|> and <|audio_3|>, in so many letters",
    "e\u0301 \u0301\u0302 combining \u200d\u200b\ufeff",
    "你好，世界。 שלום עליכם \U0001f600\U0001f468\u200d\U0001f469",
    "CRLF\r\n\r\nand\ttabs \u2028 \x85 \xa0 end ",
    "It's I'LL we've don’t ½ ² Ⅷ ١٢٣",
    "a" * 5000 + " " * 3000,
]


def test_the_files_are_those_of_megatrons_loop(vocab, tmp_path, compared, capsys):
    """Text tokenised document by document and handed to core's builder."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    texts = ODD_TEXTS + write_corpus(tmp_path / "c.parquet", 300)
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    run(vocab, tmp_path / "c.jsonl", tmp_path / "fast")
    run(vocab, tmp_path / "c.jsonl", tmp_path / "own", "--no-gigatoken")
    assert "gigatoken" not in capsys.readouterr().err, "it was not used"
    builder = IndexedDatasetBuilder(str(tmp_path / "peer.bin"), dtype=np.uint16)
    for text in texts:
        ids = [*vocab[0].text.encode(text), vocab[0].eod_id]
        builder.add_document(ids, [len(ids)])
    builder.finalize(str(tmp_path / "peer.idx"))
    for suffix in (".bin", ".idx"):
        peer = (tmp_path / f"peer{suffix}").read_bytes()
        assert (tmp_path / f"fast_text_document{suffix}").read_bytes() == peer
        assert (tmp_path / f"own_text_document{suffix}").read_bytes() == peer


def test_bytes_without_a_token_are_left_to_the_tokenizer(tmp_path, compared, capsys):
    """SmolLM2's layout: bytes that its training text had not have no token, and are dropped."""
    train_bpe(["plain words, and some more of them"] * 9, 300, tmp_path / "base")
    path = tmp_path / "base" / "tokenizer.json"
    settings = json.loads(path.read_text())
    missing = {"\u0104", "\u0106", "\u00f1"}  # bytes 0x04, 0x06 and 0xF1
    kept = [name for name in settings["model"]["vocab"] if name not in missing]
    settings["model"]["vocab"] = {name: number for number, name in enumerate(kept)}
    path.write_text(json.dumps(settings))
    texts = [*ODD_TEXTS, "\x04", "wo\x04rds!\x06! more", "U+40000 \U00040000 and", "no such byte"]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    vocab = (None, str(tmp_path / "base"))
    engine = fast_engine(tmp_path / "base")
    assert engine is not None
    assert len(engine.incomplete(*engine.encode(texts))) == 3
    run(vocab, tmp_path / "c.jsonl", tmp_path / "fast")
    assert "gigatoken" not in capsys.readouterr().err, "it was not used"
    run(vocab, tmp_path / "c.jsonl", tmp_path / "own", "--no-gigatoken")
    for suffix in (".bin", ".idx", ".json"):
        files = [(tmp_path / f"{n}_text_document{suffix}").read_bytes() for n in ("own", "fast")]
        assert files[0] == files[1]


def test_a_plain_tokenizer_folder_as_a_user_of_megatron_types_it(tmp_path, capsys):
    """Ids, and so .bin and .idx, are those of the vocabulary that extends it."""
    texts = write_corpus(tmp_path / "c.parquet", 40)
    train_bpe(texts, 400, tmp_path / "plain")
    SpeechTextVocab.extend(tmp_path / "plain", 64).save_pretrained(tmp_path / "extended")
    flags = (
        "--tokenizer-type HuggingFaceTokenizer --partitions 2 --keep-sequential-samples "
        "--log-interval 10"
    ).split()
    run((None, str(tmp_path / "plain")), tmp_path / "c.parquet", tmp_path / "a", *flags)
    assert "--partitions: parts are made by themselves" in capsys.readouterr().err
    run((None, str(tmp_path / "extended")), tmp_path / "c.parquet", tmp_path / "b")
    for suffix in (".bin", ".idx"):
        files = [(tmp_path / f"{n}_text_document{suffix}").read_bytes() for n in "ab"]
        assert files[0] == files[1]
    facts = [read_facts(tmp_path / f"{n}_text_document") for n in "ab"]
    assert facts[0].vocab_fingerprint != facts[1].vocab_fingerprint
    assert facts[0].text_vocab_fingerprint == facts[1].text_vocab_fingerprint
    for name in ("plain", "extended"):
        assert facts[0].fits(SpeechTextVocab.as_it_is(tmp_path / name))
    train_bpe(texts[:9], 400, tmp_path / "other")
    assert not facts[0].fits(SpeechTextVocab.extend(tmp_path / "other", 64))


def test_what_a_tokenizer_puts_before_texts_is_left_out_and_said(vocab, tmp_path, capsys):
    """Llama 3's folders begin every text with a token, which Megatron's own tool writes."""
    write_corpus(tmp_path / "c.parquet", 3)
    shutil.copytree(vocab[1], tmp_path / "v")
    tokenizer = Tokenizer.from_file(f"{vocab[1]}/tokenizer.json")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.save(str(tmp_path / "v" / "tokenizer.json"))
    run(vocab, tmp_path / "c.parquet", tmp_path / "a")
    assert not capsys.readouterr().err
    run((None, str(tmp_path / "v")), tmp_path / "c.parquet", tmp_path / "b")
    assert "puts <|endoftext|> around every text; this is left out" in capsys.readouterr().err
    files = [(tmp_path / f"{n}_text_document.bin").read_bytes() for n in "ab"]
    assert files[0] == files[1]


def test_two_workers_share_a_small_corpus():
    assert text_documents._number_of_parts(8_600_000, 1) == 1
    assert text_documents._number_of_parts(8_600_000, 2) == 2
    assert text_documents._number_of_parts(100_000, 64) == 1
    assert text_documents._number_of_parts(2_000_000, 64) == 2
    assert text_documents._number_of_parts(160 << 20, 2) == 10


def test_one_other_id_and_the_tokenizer_does_all_of_it(
    vocab, tmp_path, compared, monkeypatch, capsys
):
    write_corpus(tmp_path / "c.parquet", 600)
    monkeypatch.setattr(text_documents, "_PART_BYTES", 4000)
    monkeypatch.setattr(text_encoder, "_FIRST_COMPARED", 2)
    monkeypatch.setattr(text_encoder, "_COMPARED_EVERY", 20)
    run(vocab, tmp_path / "c.parquet", tmp_path / "own", "--no-gigatoken")
    encode_fast, calls = text_encoder._encode_fast, []

    def differ_in_the_last(engine, tokenizer, texts):
        flat, lengths = encode_fast(engine, tokenizer, texts)
        calls.append(1)
        if len(calls) == 4:  # characters, two parts that agree, and one that does not
            flat = flat.copy()
            flat[lengths[:20].sum()] ^= 1  # a document of the sample, not of the first ones
        return flat, lengths

    monkeypatch.setattr(text_encoder, "_encode_fast", differ_in_the_last)
    run(vocab, tmp_path / "c.parquet", tmp_path / "fast")
    assert len(calls) == 4
    assert "gives other ids" in capsys.readouterr().err
    for suffix in (".bin", ".idx", ".json"):
        files = [(tmp_path / f"{n}_text_document{suffix}").read_bytes() for n in ("own", "fast")]
        assert files[0] == files[1]


def test_when_gigatoken_is_not_taken(vocab, tmp_path, compared, monkeypatch, capsys):
    engine = fast_engine(Path(vocab[1]))
    assert engine is not None
    assert agrees_on_characters(engine, vocab[0].text)
    lower = Tokenizer.from_file(str(Path(vocab[1]) / "tokenizer.json"))
    lower.normalizer = normalizers.Lowercase()
    (tmp_path / "lower").mkdir()
    lower.save(str(tmp_path / "lower" / "tokenizer.json"))
    assert not agrees_on_characters(engine, open_text_tokenizer(tmp_path / "lower"))
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    (tmp_path / "unigram").mkdir()
    unigram.save(str(tmp_path / "unigram" / "tokenizer.json"))
    assert fast_engine(tmp_path / "unigram") is None
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    write_corpus(tmp_path / "c.parquet", 3)
    monkeypatch.setattr(text_documents, "_PART_BYTES", 10**9)
    run(vocab, tmp_path / "c.parquet", tmp_path / "out")
    assert "gigatoken is not installed" in capsys.readouterr().err


def test_half_a_part_of_an_earlier_crash_is_written_again(vocab, tmp_path, monkeypatch):
    write_corpus(tmp_path / "c.parquet")
    monkeypatch.setattr(text_documents, "_PART_BYTES", 1000)
    run(vocab, tmp_path / "c.parquet", tmp_path / "whole")
    keep = text_documents._join
    monkeypatch.setattr(text_documents, "_join", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(vocab, tmp_path / "c.parquet", tmp_path / "a")
    monkeypatch.setattr(text_documents, "_join", keep)
    parts = tmp_path / "a_text_document.parts"
    (parts / "00001.rejected.json").unlink()  # killed before it was written
    (parts / "00001.bin").write_bytes(b"half")
    (parts / ".00002.bin.123.part").write_bytes(b"half")
    run(vocab, tmp_path / "c.parquet", tmp_path / "a")
    for suffix in (".bin", ".idx", ".json"):
        files = [(tmp_path / f"{n}_text_document{suffix}").read_bytes() for n in ("whole", "a")]
        assert files[0] == files[1]


def test_every_document_names_its_source(vocab, tmp_path):
    texts = write_corpus(tmp_path / "c.parquet", 5)
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "c.jsonl").write_text("".join([*lines[:2], "{\n", *lines[2:]]))
    corpora = [str(tmp_path / name) for name in ("c.parquet", "c.jsonl")]
    run(vocab, corpora[0], tmp_path / "out", "--input", *corpora)
    sources = pq.read_table(tmp_path / "out_text_document.sources.parquet")["source_id"].to_pylist()
    places = [0, *np.cumsum([len(line) for line in lines])[:-1].tolist()]
    places[2:] = [place + 2 for place in places[2:]]
    assert sources == [f"doc-{n}" for n in range(5)] + [f"c.jsonl@{place}" for place in places]


def test_several_keys_make_several_datasets(vocab, tmp_path):
    texts = write_corpus(tmp_path / "c.parquet", 5)
    table = pq.read_table(tmp_path / "c.parquet")
    pq.write_table(table.append_column("title", table["text"]), tmp_path / "c.parquet")
    datasets = run(vocab, tmp_path / "c.parquet", tmp_path / "o", "--json-keys", "text", "title")
    assert [d.prefix.name for d in datasets] == ["o_text_document", "o_title_document"]
    assert [d.documents for d in datasets] == [len(texts)] * 2


def test_bad_records_are_set_aside_and_counted(vocab, tmp_path, capsys):
    lines = [b'{"text": "good"}', b'{"text": null}', b"{", b'{"text": "\xff"}', b'{"text": 7}']
    (tmp_path / "c.jsonl").write_bytes(b"\n".join(lines))
    [dataset] = run(vocab, tmp_path / "c.jsonl", tmp_path / "out")
    expected = {"invalid_json": 1, "invalid_utf8": 1, "not_text": 1, "null_text": 1}
    assert dataset.rejected == expected
    assert dataset.documents == 1
    assert "1 invalid_utf8" in capsys.readouterr().out
    rejected = (tmp_path / "out_text_document.rejected.jsonl").read_text().splitlines()
    assert {json.loads(line)["reason"] for line in rejected} == expected.keys()


def test_inputs_that_cannot_be_used(vocab, tmp_path):
    write_corpus(tmp_path / "c.parquet", 3)
    with pytest.raises(DataError, match="does not exist"):
        run(vocab, tmp_path / "none.jsonl", tmp_path / "out")
    with pytest.raises(DataError, match="no column 'body'"):
        run(vocab, tmp_path / "c.parquet", tmp_path / "out", "--json-keys", "body")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="no usable document"):
        run(vocab, tmp_path / "empty.jsonl", tmp_path / "out")
    with pytest.raises(VocabularyError, match="no text tokenizer"):
        run((None, str(tmp_path)), tmp_path / "c.parquet", tmp_path / "out")
    assert not list(tmp_path.glob("out_*.json"))


def test_a_full_disk_ends_the_run_and_leaves_no_dataset(vocab, tmp_path, monkeypatch):
    write_corpus(tmp_path / "c.parquet", 3)

    def open_full(path, mode):
        return open("/dev/full" if ".bin." in str(path) else path, mode)

    monkeypatch.setattr(indexed, "open", open_full, raising=False)
    with pytest.raises(OSError, match="No space left") as raised:
        run(vocab, tmp_path / "c.parquet", tmp_path / "out")
    assert raised.value.errno == errno.ENOSPC
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".bin", ".idx")]
    assert not list(tmp_path.glob("out_*.json"))


def test_a_bad_flag_and_a_missing_corpus_end_with_one_screen(vocab, tmp_path):
    def tool(*flags):
        return subprocess.run(
            [sys.executable, "tools/preprocess_data.py", *flags],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    files = ["--tokenizer-model", vocab[1], "--output-prefix", str(tmp_path / "o")]
    missing = tool("--input", str(tmp_path / "none.parquet"), *files)
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: corpus ")
    assert missing.stderr.count("\n") == 1
    unknown = tool("--input", "x", *files, "--append-eos")
    assert unknown.returncode == 2
    assert "--append-eod" in unknown.stderr
