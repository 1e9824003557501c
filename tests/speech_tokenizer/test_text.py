"""Whisper's text side: what leads a text, languages by any name, English-only models."""

import warnings

import pytest

from megatron_speech.speech_tokenizer.languages import language_code
from megatron_speech.speech_tokenizer.text import AsrText
from megatron_speech.speech_tokenizer.transcription import word_error_rate
from tests.speech_tokenizer.small_whisper import save_small_whisper

FRENCH = ("fr", "FR", "fr_CA", "fr-CA", "French", " french ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("en", "EN", "en-US", "en_us", "english", "English"), "en"),
        (FRENCH, "fr"),
        (("zh-Hans-CN", "Chinese", "mandarin", "cmn"), "zh"),
        (("Cantonese", "yue-HK"), "yue"),
        (("nb-NO", "norwegian"), "no"),
        (("Klingon",), "klingon"),
    ],
)
def test_languages_by_any_name(names, code):
    assert {language_code(name) for name in names} == {code}


def test_word_errors_know_languages_by_name():
    assert word_error_rate(["今天天气很好。"], ["今天 天汽很好"], "Chinese") == pytest.approx(1 / 6)
    assert word_error_rate(["We're here"], ["we are here"], "English") == 0


def test_the_prompt_names_the_language(folder):
    text = AsrText(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {tuple(text.prompt(name)) for name in FRENCH} == {tuple(text.prompt("fr"))}
        assert text.prompt("fr") != text.prompt("en") == text.prompt(None) == text.prompt("")
    assert text.knows("fr_CA")
    assert not text.knows("de")
    with pytest.warns(UserWarning, match="does not know the language 'de-AT'"):
        assert text.prompt("de-AT") == text.prompt("en")


def test_an_english_only_whisper_names_no_language(tmp_path):
    text = AsrText(save_small_whisper(tmp_path, multilingual=False))
    assert len(text.prompt("en")) == 2
    assert text.prompt("en")[0] == text.start_id
    assert text.knows("en-GB")
    assert not text.knows("fr")  # though its tokenizer has the token
    text.save_pretrained(tmp_path / "copy")
    assert AsrText(tmp_path / "copy").prompt("en") == text.prompt("en")


def test_texts_begin_with_a_space_as_whispers_do(folder, text_folder):
    text = AsrText(folder)
    spaced = text.encode(" the cat")
    assert text.encode("the cat") == text.encode("the cat ", "en") == spaced
    assert text.encode("the cat", "zh-TW") != spaced  # written without spaces
    assert AsrText(folder, words_only=True).encode("The cat!") == spaced
    assert text.decode(spaced) == "the cat"
    own = AsrText(text_folder)
    assert own.encode("the cat") != own.encode(" the cat")


def test_special_tokens_are_no_text(folder):
    text = AsrText(folder)
    assert text.decode([*text.encode("the cat"), *text.prompt("fr"), text.eos_id]) == "the cat"
    assert text.decode(text.encode("<|fr|> cat")) == "<|fr|> cat"  # written, not meant
