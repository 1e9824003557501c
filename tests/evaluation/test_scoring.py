"""Scores equal a plain log-softmax, whatever is batched with whatever."""

import numpy as np
import pytest
import torch

from megatron_speech.errors import CheckpointError, ConfigError, VocabularyError
from megatron_speech.evaluation.scoring import LanguageModel, Query


@pytest.fixture(scope="module")
def model(model_folder):
    return LanguageModel.from_pretrained(model_folder)


def random_queries(rng, count, vocab_size):
    def tokens(low, high):
        return rng.integers(0, vocab_size, rng.integers(low, high))

    return [
        Query(
            context=tokens(1, 40), endings=tuple(tokens(1, 12) for _ in range(rng.integers(1, 4)))
        )
        for _ in range(count)
    ]


def brute_force(model, context, ending):
    """One sequence, no padding, no mask: log-softmax at every position."""
    ids = torch.tensor(np.concatenate([context, ending]))[None]
    with torch.inference_mode():
        logs = model.model(input_ids=ids).logits[0].double().log_softmax(-1)
    at = range(len(context) - 1, len(context) + len(ending) - 1)
    return sum(logs[position, token].item() for position, token in zip(at, ending, strict=True))


def test_scores_equal_brute_force_log_softmax(model):
    queries = random_queries(np.random.default_rng(1), 24, model.vocab.size)
    for query, scores in zip(queries, model.score(queries), strict=True):
        expected = [brute_force(model, query.context, ending) for ending in query.endings]
        np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_batching_order_and_companions_change_nothing(model):
    queries = random_queries(np.random.default_rng(2), 16, model.vocab.size)
    together = model.score(queries)
    small = LanguageModel(model=model.model, vocab=model.vocab, batch_tokens=1).score(queries[::-1])
    for one, other in zip(together, small[::-1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_endings_do_not_see_each_other(model):
    rng = np.random.default_rng(3)
    context, ending = rng.integers(0, 300, 20), rng.integers(0, 300, 6)
    alone = model.score([Query(context=context, endings=(ending,))])[0][0]
    others = [rng.integers(0, 300, 9) for _ in range(2)]
    last = model.score([Query(context=context, endings=(*others, ending))])[0][2]
    assert last == pytest.approx(alone, rel=1e-5)


def test_empty_parts_are_refused():
    with pytest.raises(ConfigError, match="at least one token"):
        Query(context=np.array([], dtype=int), endings=(np.array([1]),))
    with pytest.raises(ConfigError, match="at least one token"):
        Query(context=np.array([1]), endings=(np.array([], dtype=int),))


def test_longer_than_the_model_is_refused(model):
    with pytest.raises(CheckpointError, match=r"301 tokens.*256"):
        model.score([Query(context=np.zeros(300, dtype=int), endings=(np.array([1]),))])


def test_nothing_to_score(model):
    assert model.score([]) == []


def test_a_folder_without_weights_is_refused(tmp_path, vocab_folder, model_folder):
    with pytest.raises(CheckpointError, match="no exported model"):
        LanguageModel.from_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model_folder / name).read_bytes())
    with pytest.raises(VocabularyError, match="no speech-text vocabulary"):
        LanguageModel.from_pretrained(tmp_path)


def test_a_model_whose_logits_are_nan_scores_nothing(model_folder):
    """An argmax over NaN would answer every question, with the first choice."""
    damaged = LanguageModel.from_pretrained(model_folder)
    damaged.model.get_input_embeddings().weight.data[7, 0] = torch.nan
    query = Query(context=np.array([5, 7, 9]), endings=(np.array([1]), np.array([2, 3])))
    with pytest.raises(CheckpointError, match="log-likelihoods are NaN"):
        damaged.score([query])
