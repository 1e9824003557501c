"""Sentences by NLTK's Punkt, with a small model trained here: no data is downloaded."""

import nltk
import numpy as np
import pytest
from nltk.tokenize.punkt import PunktTrainer, save_punkt_params

from megatron_speech.errors import ConfigError
from megatron_speech.interleaving.cut_points import cut_text
from megatron_speech.interleaving.plan import plan
from megatron_speech.interleaving.spans import SpanConfig
from megatron_speech.io.files import read_json
from megatron_speech.text import sentences
from megatron_speech.text.sentences import sentence_ends, sentence_splitter
from megatron_speech.text.vocab import SpeechTextVocab
from tests.interleaving.jobs import plan_config

TEXT = "We met Lt. Green and Adm. Brown on the pier. They sailed at ten. The sea was calm."


@pytest.fixture
def no_punkt(monkeypatch, tmp_path):
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nothing")])
    sentences._punkt.cache_clear()
    yield
    sentences._punkt.cache_clear()


@pytest.fixture
def punkt(monkeypatch, tmp_path):
    """Punkt that has learned from a small text that `adm.` is an abbreviation."""
    trainer = PunktTrainer()
    trainer.INCLUDE_ALL_COLLOCS = True
    spoken = "The ship of adm. brown is old. We saw adm. grey there. It rained on adm. white. "
    trainer.train(spoken * 20, finalize=True)
    folder = tmp_path / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    save_punkt_params(trainer.get_params(), dir=str(folder))
    sentences._punkt.cache_clear()
    yield
    sentences._punkt.cache_clear()


def words_of(text):
    stops = np.cumsum([len(word) + 1 for word in text.split(" ")]) - 1
    return np.append(0, stops[:-1] + 1), stops


def ending_words(text):
    starts, stops = words_of(text)
    ends = sentence_ends(text, starts, stops)
    return [word for word, end in zip(text.split(" "), ends, strict=True) if end]


def test_without_data_sentencex_decides(no_punkt):
    assert sentence_splitter("en").startswith("sentencex-")
    assert ending_words(TEXT)[-3:] == ["pier.", "ten.", "calm."]


def test_with_data_punkt_decides(punkt):
    assert sentence_splitter("en").startswith("punkt-")
    assert sentence_splitter("de").startswith("sentencex-")
    assert "Adm." not in ending_words(TEXT)
    assert {"pier.", "ten.", "calm."} <= set(ending_words(TEXT))


@pytest.mark.parametrize("name", ["no_punkt", "punkt"])
def test_both_keep_to_the_borders_of_the_text(name, request):
    request.getfixturevalue(name)
    assert sentence_ends("", np.zeros(0, int), np.zeros(0, int)).tolist() == []
    assert ending_words("no mark at all")[-1] == "all"
    starts, stops = np.array([0, 7]), np.array([5, 12])
    assert sentence_ends("Title\n\nthere", starts, stops).tolist() == [True, True]
    assert sentence_ends("好。走", np.array([0, 2]), np.array([2, 3])).tolist() == [True, True]


def test_sentences_of_units_add_up_with_punkt(world, punkt):
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    cut = cut_text(vocab, TEXT, "sentence")
    assert cut.groups.sum() == len(cut.unit_tokens)
    assert len(cut.groups) < 5


def test_a_plan_is_not_continued_with_another_splitter(world, tmp_path, punkt):
    spans = SpanConfig(unit="sentence")
    plan(plan_config(world, tmp_path / "words"))
    plan(plan_config(world, tmp_path / "plan", spans=spans))
    settings = read_json(tmp_path / "plan" / "settings.json")
    assert settings["sentences"] == sentence_splitter("en")
    nltk.data.path[:] = []
    sentences._punkt.cache_clear()
    plan(plan_config(world, tmp_path / "words"))  # spans of words know no sentences
    with pytest.raises(ConfigError, match=r"other settings \(sentences\)"):
        plan(plan_config(world, tmp_path / "plan", spans=spans))
