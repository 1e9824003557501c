"""Answers stay in the modality asked for, do not depend on the batch, and are matched as words."""

import json

import numpy as np
import pytest
import torch

from megatron_speech.errors import ConfigError
from megatron_speech.evaluation import qa
from megatron_speech.evaluation.context import EvaluationContext, Utterances
from megatron_speech.evaluation.scoring import LanguageModel
from tests.evaluation.fakes import SENTENCES, TableTranscriber


@pytest.fixture(scope="module")
def model(model_folder):
    return LanguageModel.from_pretrained(model_folder)


@pytest.fixture
def prompts(model):
    rng = np.random.default_rng(0)
    return [rng.integers(0, model.vocab.size, length) for length in (7, 3, 12, 5)]


@pytest.mark.parametrize("speech", [True, False])
def test_only_tokens_of_the_modality(model, prompts, speech):
    vocab = model.vocab
    for tokens in qa.generate(model, prompts, speech=speech, max_new_tokens=12):
        assert vocab.is_speech(tokens).all() if speech else (tokens < vocab.text.size).all()
        assert vocab.eod_id not in tokens
        if not speech:
            assert not vocab.is_speech(tokens).any()
            assert not np.isin(tokens, list(vocab.specials.values())).any()


def test_greedy_and_independent_of_the_batch(model, prompts):
    vocab = model.vocab
    together = qa.generate(model, prompts, speech=True, max_new_tokens=5)
    allowed = torch.zeros(vocab.padded_size, dtype=torch.bool)
    allowed[vocab.code_offset : vocab.code_offset + vocab.num_codes] = True
    allowed[vocab.end_of_audio_id] = True
    for prompt, answer in zip(prompts, together, strict=True):
        ids = prompt.tolist()
        for _ in range(5):
            logits = model.model(input_ids=torch.tensor([ids])).logits[0, -1]
            ids.append(int(logits.masked_fill(~allowed, -torch.inf).argmax()))
            if ids[-1] == vocab.end_of_audio_id:
                ids.pop()
                break
        assert answer.tolist() == ids[len(prompt) :]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("She lives in Tarn.", True),
        ("tarn", True),
        ("in Tarnby", False),
        ("the two boats", True),
        ("", False),
    ],
)
def test_matching_is_by_whole_words(answer, right):
    assert qa.is_right(answer, ["Tarn", "2 boats"]) is right


def test_evaluate_all_directions(model, speech_folder, tmp_path):
    path = tmp_path / "qa.jsonl"
    path.write_text(json.dumps({"id": "q", "question": SENTENCES[4], "answers": ["Tarn"]}) + "\n")
    context = EvaluationContext(
        model=model,
        utterances=Utterances(speech_folder),
        speech_tokenizer=TableTranscriber(),
        qa_path=path,
    )
    results = qa.evaluate(context)
    assert [result.direction for result in results] == ["t2t", "s2t", "s2s"]
    sample = results[1].to_json()["samples"][0]
    assert sample["question"] == SENTENCES[4]
    assert sample["references"] == ["Tarn"]


def test_reading_spoken_answers_needs_the_tokenizer(model, speech_folder, tmp_path):
    path = tmp_path / "qa.jsonl"
    path.write_text(json.dumps({"id": "q", "question": SENTENCES[4], "answers": ["Tarn"]}) + "\n")
    context = EvaluationContext(
        model=model, utterances=Utterances(speech_folder), qa_path=path, directions=("s2s",)
    )
    with pytest.raises(ConfigError, match="give --speech-tokenizer"):
        qa.evaluate(context)
