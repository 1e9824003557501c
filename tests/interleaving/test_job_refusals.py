"""What plan, generate and assemble refuse to put together."""

import dataclasses
import os
import shutil

import pytest

from megatron_speech.data.code_shards import read_code_shard, write_code_shard
from megatron_speech.errors import ConfigError, DataError, VocabularyError
from megatron_speech.interleaving.assemble import assemble
from megatron_speech.interleaving.generate import generate
from megatron_speech.interleaving.plan import plan
from megatron_speech.text.vocab import SpeechTextVocab
from tests.interleaving.jobs import assemble_config, generate_config, plan_config
from tests.interleaving.samples import (
    INFO,
    LookUpEngine,
    make_vocab,
)


def test_going_on_with_other_settings_is_refused(world, done, tmp_path):
    shutil.copytree(done[0], tmp_path / "copy")
    with pytest.raises(ConfigError, match=r"begun with other settings \(seed\)"):
        plan(plan_config(world, tmp_path / "copy" / "plan", seed=9))
    engine = LookUpEngine()
    engine.fingerprint = "another model"
    with pytest.raises(ConfigError, match="generator_fingerprint"):  # even with nothing left to do
        generate(generate_config(world, tmp_path / "copy"), engine)
    (tmp_path / "copy" / "codes" / "00000-00000.parquet").unlink()
    with pytest.raises(ConfigError, match="generator_fingerprint"):
        generate(generate_config(world, tmp_path / "copy"), engine)


def test_going_on_with_a_corpus_that_changed_is_refused(world, done, tmp_path):
    """Same path, same size, same ids: only the bytes differ."""
    corpus = tmp_path / "corpus.jsonl"
    line = '{"id": "a", "text": "The dog ran to the %s and saw a cat."}\n'
    corpus.write_text(line % "river")
    config = plan_config(world, tmp_path / "plan", input=(str(corpus),), tasks=1)
    plan(config)
    generate(generate_config(world, tmp_path), LookUpEngine())
    size, times = corpus.stat().st_size, (corpus.stat().st_atime_ns, corpus.stat().st_mtime_ns)
    corpus.write_text(line % "house")
    os.utime(corpus, ns=times)
    assert corpus.stat().st_size == size
    with pytest.raises(ConfigError, match=r"begun with other settings \(inputs\)"):
        plan(config)
    shutil.rmtree(tmp_path / "plan")  # as the message says; the codes of the old plan are left
    plan(config)
    with pytest.raises(ConfigError, match=r"codes was begun with other settings \(plan\)"):
        generate(generate_config(world, tmp_path), LookUpEngine())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda info: dataclasses.replace(info, tokenizer_fingerprint="b"), DataError, "made by"),
        (lambda info: dataclasses.replace(info, num_codes=99), VocabularyError, "codebook of 99"),
    ],
)
def test_shards_of_another_tokenizer_are_refused(world, done, tmp_path, change, error, message):
    shutil.copytree(done[0], tmp_path / "copy")
    path = sorted((tmp_path / "copy" / "codes").glob("*.parquet"))[1]
    info, records = read_code_shard(path)
    write_code_shard(path, records, change(info))
    with pytest.raises(error, match=message):
        assemble(assemble_config(world, tmp_path / "copy"))


def test_a_model_of_another_speech_tokenizer_is_refused(world, done, tmp_path):
    plan(plan_config(world, tmp_path / "plan"))
    engine = LookUpEngine()
    engine.speech_tokenizer = "tok-b"
    with pytest.raises(DataError, match=r"made by speech tokenizer tok-a, but .* codes of tok-b"):
        generate(generate_config(world, tmp_path), engine)
    assert not (tmp_path / "codes").exists()
    engine.speech_tokenizer = INFO.tokenizer_fingerprint
    assert generate(generate_config(world, tmp_path), engine)["shards_missing"] == 0
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    dataclasses.replace(vocab, speech_tokenizer="tok-b").save_pretrained(tmp_path / "other")
    config = dataclasses.replace(assemble_config(world, tmp_path), vocab=tmp_path / "other")
    with pytest.raises(DataError, match=r"has codes of speech tokenizer tok-a, but .* of tok-b"):
        assemble(config)


def test_codes_of_another_plan_are_refused(world, done, tmp_path):
    shutil.copytree(done[0], tmp_path / "copy")
    path = sorted((tmp_path / "copy" / "codes").glob("*.parquet"))[0]
    info, records = read_code_shard(path)
    for changed in (records[1:], records[:-1], [*records, records[0]]):
        write_code_shard(path, changed, info)
        with pytest.raises(DataError, match="another plan"):
            assemble(assemble_config(world, tmp_path / "copy"))


def test_vocabularies_that_do_not_belong_are_refused(world, done, tmp_path):
    make_vocab(tmp_path, size=300)
    config = dataclasses.replace(assemble_config(world, done[0]), vocab=tmp_path / "vocab")
    with pytest.raises(VocabularyError, match="plan again with this vocabulary"):
        assemble(config)
    engine = LookUpEngine()
    engine.num_codes = 8
    plan(plan_config(world, tmp_path / "plan"))
    with pytest.raises(VocabularyError, match="do not belong together"):
        generate(generate_config(world, tmp_path), engine)
