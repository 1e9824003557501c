import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from megatron_speech.corpus import text_documents
from megatron_speech.data import indexed
from megatron_speech.data.indexed import open_tokens
from megatron_speech.errors import DataError, VocabularyError
from tests.corpus.samples import make_vocab, write_corpus
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
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    run(vocab, tmp_path / "c.parquet", tmp_path / "a")
    monkeypatch.setattr(text_documents, "_PART_BYTES", 2000)
    run(vocab, tmp_path / "c.parquet", tmp_path / "b")
    run(vocab, tmp_path / "c.jsonl", tmp_path / "c", "--workers", "2")
    for suffix in (".bin", ".idx", ".json"):
        files = [(tmp_path / f"{n}_text_document{suffix}").read_bytes() for n in "abc"]
        assert files[0] == files[1] == files[2]
    assert not list(tmp_path.glob("*.parts"))


def test_a_stopped_run_keeps_its_parts_and_others_parts_are_not_taken(vocab, tmp_path, monkeypatch):
    write_corpus(tmp_path / "c.parquet")
    monkeypatch.setattr(text_documents, "_PART_BYTES", 1000)
    run(vocab, tmp_path / "c.parquet", tmp_path / "whole")
    calls, tokenise = [], text_documents.tokenise

    def stop_in_the_third(*arguments, **flags):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return tokenise(*arguments, **flags)

    monkeypatch.setattr(text_documents, "tokenise", stop_in_the_third)
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
    with pytest.raises(VocabularyError, match="build_vocab"):
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
