import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_speech.errors import ConfigError, DataError, VocabularyError
from megatron_speech.io.files import write_json
from megatron_speech.text.build_vocab import VocabConfig
from megatron_speech.text.vocab import SpeechTextVocab
from tests.interleaving.samples import write_corpus
from tools import build_vocab


def test_trains_a_bpe_on_a_corpus(tmp_path, capsys):
    write_corpus(tmp_path / "corpus.parquet", 200)
    flags = ["--input", str(tmp_path / "corpus.parquet"), "--train-bpe", "400"]
    output = tmp_path / "vocab"
    vocab = build_vocab.main([*flags, "--num-codes", "64", "--output", str(output)])
    assert (vocab.code_offset, vocab.num_codes, vocab.padded_size) == (407, 64, 1024)
    assert vocab.eod_id == 0
    assert len(vocab.text.encode("The small red dog")) <= 6, "frequent words are single tokens"
    assert "codes from 407" in capsys.readouterr().out
    again = build_vocab.main([*flags, "--num-codes", "64", "--output", str(tmp_path / "again")])
    assert again.fingerprint == vocab.fingerprint


def test_extends_a_given_tokenizer_for_a_given_speech_tokenizer(tmp_path):
    write_corpus(tmp_path / "corpus.parquet", 50)
    source = ["--input", str(tmp_path / "corpus.parquet"), "--train-bpe", "300"]
    build_vocab.main([*source, "--num-codes", "4", "--output", str(tmp_path / "a")])
    write_json(tmp_path / "speech" / "config.json", {"quantize_vocab_size": 4})
    flags = ["--tokenizer", str(tmp_path / "a"), "--output", str(tmp_path / "b")]
    vocab = build_vocab.main([*flags, "--speech-tokenizer", str(tmp_path / "speech")])
    assert vocab.fingerprint == SpeechTextVocab.from_pretrained(tmp_path / "a").fingerprint
    with pytest.raises(VocabularyError, match="more than 3 codes"):
        build_vocab.main([*flags, "--num-codes", "3"])
    with pytest.raises(ConfigError, match="does not exist"):
        build_vocab.main([*flags, "--speech-tokenizer", str(tmp_path / "nothing")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_codes": 4}, "either --tokenizer or --train-bpe"),
        ({"train_bpe": 300, "num_codes": 4}, "needs a corpus"),
        ({"train_bpe": 300, "input": ("x",)}, "either --num-codes or --speech-tokenizer"),
        ({"train_bpe": 200, "input": ("x",), "num_codes": 4}, "more than 257"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        VocabConfig(output=tmp_path, **settings)


def test_the_command_line_says_so(tmp_path):
    with pytest.raises(ConfigError, match="give either --tokenizer or --train-bpe"):
        build_vocab.main(["--num-codes", "4", "--output", str(tmp_path)])


def test_unusable_records_are_counted_and_listed(tmp_path, capsys):
    texts = write_corpus(tmp_path / "corpus.parquet", 50)
    pq.write_table(pa.table({"text": [*texts, "", None, " "]}), tmp_path / "mixed.parquet")
    flags = ["--train-bpe", "300", "--num-codes", "4", "--input"]
    output = ["--output", str(tmp_path / "v")]
    mixed = build_vocab.main([*flags, str(tmp_path / "mixed.parquet"), *output])
    said = capsys.readouterr().err
    assert "3 of 53 records are set aside: 2 empty_text, 1 null_text" in said
    lines = (tmp_path / "v" / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == [
        "empty_text",
        "null_text",
        "empty_text",
    ]
    clean = build_vocab.main([*flags, str(tmp_path / "corpus.parquet"), *output])
    assert "set aside" not in capsys.readouterr().err
    assert not (tmp_path / "v" / "rejected.jsonl").exists()
    assert clean.fingerprint == mixed.fingerprint


def test_a_corpus_without_text(tmp_path):
    pq.write_table(pa.table({"text": ["", " "]}), tmp_path / "c.parquet")
    flags = ["--train-bpe", "300", "--num-codes", "4", "--output", str(tmp_path / "v")]
    with pytest.raises(DataError, match=r"no usable text .* 2 empty_text"):
        build_vocab.main([*flags, "--input", str(tmp_path / "c.parquet")])
    with pytest.raises(DataError, match="does not exist"):
        build_vocab.main([*flags, "--input", str(tmp_path / "none.parquet")])
