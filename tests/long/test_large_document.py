"""A document of 100 MB among small ones: indexed as text, planned, spoken, assembled."""

import json
import resource

import pytest

from megatron_speech.data.indexed import open_tokens
from tests.interleaving.jobs import run_jobs
from tests.interleaving.samples import WORDS, make_vocab, write_codes
from tools import preprocess_data

pytestmark = pytest.mark.long

SIZE = 100_000_000
MOST_GIB = 16  # of the test and all jobs in one process


def test_a_document_of_100_mb_goes_through(tmp_path):
    make_vocab(tmp_path)
    write_codes(tmp_path / "like" / "a.parquet")
    sentence = " ".join(WORDS[:12]) + ". "
    texts = ["A cat.", sentence * (SIZE // len(sentence)), "The end."]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    flags = ["--input", str(corpus), "--tokenizer-model", str(tmp_path / "vocab"), "--append-eod"]
    preprocess_data.main([*flags, "--output-prefix", str(tmp_path / "text")])
    index, _ = open_tokens(tmp_path / "text_text_document")
    assert len(index.lengths) == 3
    assert index.lengths[1] > SIZE // 20
    facts = run_jobs(
        tmp_path, tmp_path / "work", input=(str(corpus),), tasks=1, requests_per_shard=20_000
    )
    assert facts["documents"] == 3
    assert facts["speech_word_fraction"] > 0.25
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"most memory held: {used:.1f} GiB")
    assert used < MOST_GIB
