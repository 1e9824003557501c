"""Corpora as they are: every record is a document or set aside, and the counts add up."""

import json

import pytest

from megatron_speech.datasets.trace import trace
from megatron_speech.datasets.verify import verify
from megatron_speech.errors import DataError
from megatron_speech.io.files import read_json
from megatron_speech.text.vocab import SpeechTextVocab
from tests.interleaving.jobs import documents_of, run_jobs

TEXTS = [
    "The cat saw a red dog near the river and ran under the old house.",
    "Mira found a little key; Tom lost it, then he ate the bread.",
    "a" * 300_000 + " and then they ran over the garden " + "word " * 20_000,
    "你好，世界。猫在花园里。 e\u0301 \U0001f469\u200d\U0001f467 שלום\r\nCRLF\r\n",
]
BROKEN = {
    b'{"id": "null", "text": null}': "null_text",
    b'{"id": "number", "text": 12}': "not_text",
    b'{"id": "list", "text": ["a"]}': "not_text",
    b'{"id": "empty", "text": " "}': "empty_text",
    b'{"id": "key", "body": "text"}': "no_such_key",
    b'{"id": "cut", "text": "half a li': "invalid_json",
    b'"no object"': "invalid_json",
    b'{"id": "bytes", "text": "\xff\xfe"}': "invalid_utf8",
}


@pytest.fixture(scope="module")
def messy(world, tmp_path_factory):
    """A corpus of good, broken and twice-named records, interleaved."""
    work = tmp_path_factory.mktemp("messy")
    good = [json.dumps({"id": f"d{n}", "text": text}).encode() for n, text in enumerate(TEXTS)]
    twice = [json.dumps({"id": "d0", "text": text}).encode() for text in (TEXTS[1], TEXTS[0])]
    lines = [line for pair in zip(BROKEN, [*good, *twice, b"", b""], strict=True) for line in pair]
    (work / "corpus.jsonl").write_bytes(b"\n".join(lines))
    facts = run_jobs(world, work, input=(str(work / "corpus.jsonl"),))
    return work, facts


def test_every_record_is_a_document_or_set_aside(messy):
    work, facts = messy
    planned = read_json(work / "plan" / "plan.json")
    expected = {reason: list(BROKEN.values()).count(reason) for reason in BROKEN.values()}
    assert planned["rejected"] == dict(sorted(expected.items()))
    assert planned["documents"] == facts["documents"] == len(TEXTS) + 2
    assert planned["requests"] == facts["spans"] + sum(facts["rejected"].values())


def test_documents_of_one_id_are_all_there(world, messy):
    """The second d0 has other words than the first, the third the same."""
    work, _ = messy
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    documents = documents_of(work / "out")
    assert documents[5] == documents[0]
    assert documents[4] not in documents[:4]
    assert not verify(work / "out", vocab).problems
    corpus = [str(work / "corpus.jsonl")]
    for number, text in ((4, TEXTS[1]), (5, TEXTS[0])):
        positions = [n for n, token in enumerate(documents[number]) if token < vocab.code_offset]
        origins = [trace(work / "out", vocab, number, position, corpus) for position in positions]
        words = [origin for origin in origins if origin.kind == "text"]
        assert all(o.text == text[o.character_start : o.character_stop] for o in words)
        assert words


def test_a_file_cut_short_is_refused_by_name(world, tmp_path):
    data = (world / "corpus.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut\.parquet cannot be read as Parquet"):
        run_jobs(world, tmp_path / "work", input=(str(tmp_path / "cut.parquet"),))
