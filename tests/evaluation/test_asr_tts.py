"""Word errors of the model's own transcripts and speech, by language, against hand-made replies."""

import numpy as np
import pytest

from megatron_speech.data.code_shards import CodeRecord, CodeShardInfo, write_code_shard
from megatron_speech.data.templates import speak_prompt, transcribe_prompt
from megatron_speech.errors import CheckpointError, ConfigError, DataError
from megatron_speech.evaluation.asr_tts import WordErrors, evaluate_asr, evaluate_tts
from megatron_speech.evaluation.context import EvaluationContext
from tests.evaluation.unigram import FINGERPRINT, SeenTokenizer, unigram
from tests.evaluation.unigram import scripted as scripted

TEXTS = {"a b c d": "en", "a b": "en", "b a c": "fr"}


@pytest.fixture
def shards(tmp_path):
    info = CodeShardInfo(frame_rate_hz=100.0, num_codes=16, tokenizer_fingerprint=FINGERPRINT)
    records = [
        CodeRecord(id=text, codes=codes_of(text), text=text, language=language)
        for text, language in TEXTS.items()
    ]
    silent = CodeRecord(id="silent", codes=np.zeros(0, np.int64), text="x")
    write_code_shard(tmp_path / "codes" / "a.parquet", [*records, silent], info)
    return tmp_path / "codes"


def codes_of(text):
    return np.array([ord(letter) - ord("a") for letter in text.split()])


def context_of(vocab_folder, shards, said, **given):
    """A model that replies to each text's codes, or to each text, by `said`."""
    vocab = unigram(vocab_folder).vocab
    replies = {}
    for text, reply in said.items():
        heard = transcribe_prompt(vocab, codes_of(text))
        replies[(vocab.eod_id, *heard.tolist())] = vocab.text.encode(reply)
        asked = speak_prompt(vocab, vocab.text.encode(text))
        replies[(vocab.eod_id, *asked.tolist())] = vocab.codes_to_tokens(codes_of(reply)).tolist()
    settings = {"utterances": None, "speech_tokenizer": SeenTokenizer()} | given
    return EvaluationContext(
        model=unigram(vocab_folder, replies), speech_paths=(shards,) if shards else (), **settings
    )


@pytest.mark.parametrize("evaluate", [evaluate_asr, evaluate_tts])
def test_word_errors_by_language(evaluate, vocab_folder, shards):
    said = {"a b c d": "a b c c", "a b": "a b", "b a c": "b c"}  # 1 of 4, 0 of 2, 1 of 3
    found = {r.part: r for r in evaluate(context_of(vocab_folder, shards, said))}
    assert {part: r.rate for part, r in found.items()} == {
        "all": pytest.approx(2 / 9), "en": pytest.approx(1 / 6), "fr": pytest.approx(1 / 3)
    }  # fmt: skip
    written = found["all"].to_json()
    assert (written["texts"], written["words"]) == (3, 9)
    if evaluate is evaluate_tts:  # the recordings' own codes are read without a fault
        assert found["all"].more == {"reading": 0.0}
    assert found["fr"].to_json()["samples"] == [
        {"text": "b a c", "wer": "b c"} | ({"reading": "b a c"} if evaluate is evaluate_tts else {})
    ]


def test_a_model_that_says_nothing_has_every_word_wrong(vocab_folder, shards):
    context = context_of(vocab_folder, shards, {})
    assert [r.rate for r in evaluate_tts(context)] == [1.0, 1.0, 1.0]
    assert [r.rate for r in evaluate_asr(context)] == [1.0, 1.0, 1.0]


def test_what_does_not_fit_the_model_is_left_out_and_counted(vocab_folder, shards):
    context = context_of(vocab_folder, shards, {"a b": "a b"})
    context.model.model.config.max_position_embeddings = 1 + 2 + 2 + 1 + 16  # two codes and marks
    (result,) = evaluate_asr(context)
    assert (result.rate, result.to_json()["texts"], result.to_json()["too_long"]) == (0.0, 1, 2)
    context.model.model.config.max_position_embeddings = 8
    with pytest.raises(CheckpointError, match="no record fits the model's 8 positions"):
        evaluate_asr(context)


def test_standard_error_of_a_rate():
    result = WordErrors(task="asr", part="en", direction="s2t", counts=[(1, 4), (3, 4)])
    assert result.rate == 0.5
    # errors differ from the rate by -1 and 1: sd sqrt(2), over sqrt(2) texts, over 4 words
    assert result.stderr == pytest.approx(1 / 4)


def test_what_the_tasks_cannot_do_without(vocab_folder, shards, tmp_path):
    with pytest.raises(ConfigError, match="task asr needs codes with their texts: give --speech"):
        evaluate_asr(context_of(vocab_folder, None, {}))
    with pytest.raises(ConfigError, match="task tts reads codes back"):
        evaluate_tts(context_of(vocab_folder, shards, {}, speech_tokenizer=None))
    info = CodeShardInfo(frame_rate_hz=1.0, num_codes=16, tokenizer_fingerprint=FINGERPRINT)
    write_code_shard(
        tmp_path / "mute" / "a.parquet", [CodeRecord(id="a", codes=np.array([1]))], info
    )
    with pytest.raises(DataError, match="no record with codes and text"):
        evaluate_asr(context_of(vocab_folder, tmp_path / "mute", {}))
