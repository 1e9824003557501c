"""Sentences of a text as pieces of it: within paragraphs, in scripts with and without spaces."""

import pytest

from megatron_speech.text.sentences import sentence_spans


def told(text, language="en"):
    return [text[start:stop] for start, stop in sentence_spans(text, language)]


def test_wrapped_lines_are_one_sentence_and_headings_stand_alone():
    text = "CHAPTER II\n\n  Mr. Brown came\nat ten. He left.\n \n\nThe end of\nit\n"
    assert told(text) == ["CHAPTER II", "Mr. Brown came\nat ten.", "He left.", "The end of\nit"]


def test_lines_are_paragraphs_where_none_is_empty():
    assert told("A title\nIt rained. We left.\n") == ["A title", "It rained.", "We left."]
    assert told("\n\nA title\nIt rained.") == [
        "A title",
        "It rained.",
    ]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("zh", "今天天气很好。我们去海边！"),
        ("hi", "राम घर गया। सीता ने खाना बनाया।"),
        ("ar", "ذهب الولد إلى المدرسة. هل عاد؟"),
        ("ru", "А. С. Пушкин родился в Москве. Он писал стихи."),
    ],
)
def test_scripts(language, text):
    found = told(text, language)
    assert len(found) == 2
    assert "".join(found).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "He sat--Mr. Weston did too.| Mrs. Long left."),
        ("en", "It was gone.--|Mrs. Elton came."),
        ("es", "Vino a las 3 p.m. con la Dra. Ruiz.| D. Juan se fue."),
        ("fr", "M. Dupont et Mlle. Petit sont là.| Le Dr. Noir part, cf. St. Jean."),
        ("fr", "Il aime la lettre J.| Dormez !"),
    ],
)
def test_abbreviations_end_no_sentence(language, text):
    assert told(text.replace("|", ""), language) == [each.strip() for each in text.split("|")]


@pytest.mark.parametrize("text", ["", " \n\n "])
def test_a_text_without_sentences(text):
    assert sentence_spans(text).shape == (0, 2)
