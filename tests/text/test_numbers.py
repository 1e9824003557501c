"""Numbers become words where one reading is sure, and stay as they are everywhere else."""

import pytest

from megatron_speech.text.numbers import numbers_in_words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("on 3 May 1999", "on three May nineteen ninety-nine"),
        ("In 1847, she", "In eighteen forty-seven, she"),
        ("the 21st & last", "the twenty-first and last"),
        ("$5.20, 3.5% or -4", "five dollars, twenty cents, three point five percent or minus four"),
        ("$7 and £30 or €1", "seven dollars and thirty pounds or one euro"),
        ("£0.01 to £1.10", "one penny to one pound, ten pence"),
        ("$2.5 billion", "two point five billion dollars"),
        ("4 million birds", "four million birds"),
        ("1,234,567 people", "one million, two hundred and thirty-four thousand, five hundred"
         " and sixty-seven people"),
        ("a 5-year plan", "a five-year plan"),
        ("2+2=4", "2 plus 2 equals 4"),
    ],
)  # fmt: skip
def test_sure_numbers_in_english(text, said):
    assert numbers_in_words(text, "en") == said


@pytest.mark.parametrize(
    "text",
    [
        "v2 at 10:30, 1.2.3",
        "9" * 40,
        "it costs $3.5 or US$3 or C$3",
        "a $20 note",
        "a $7 million-dollar house",
        "$6m, $6 bn, $6-8, $6–$8, $6/month",
        "pages 5-10 and 7–9, 5–10%, 50%-60%, 1984-85",
        "12.000 people at 10.45 or 10.30 am",
        "2020-05-01, 1/2/2020, 24/7",
        "555 1234, 555-1234, +49 30 901820",
        "1805 metres, in 1500 cases",
        "10 000 people, 007, 3.10, version 3.12",
        "the 2th, F-16, #3, 5'10, 1990s, 5€, 20°C",
        "fish &amp; chips",
        "10 - 4",
    ],
)
def test_unsure_numbers_stay_in_english(text):
    assert numbers_in_words(text, "en") == text


@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("de", "42 Tage", "zweiundvierzig Tage"),
        ("de_CH", "7 Tage", "sieben Tage"),
        ("fr", "12 chats", "douze chats"),
        ("ru", "5 книг", "пять книг"),
        ("es", "13 libros", "trece libros"),
    ],
)
def test_sure_numbers_elsewhere(language, text, said):
    assert numbers_in_words(text, language) == said


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("de", "12.000 Mark, 10,5 Grad, am 3. Mai, 14.30 Uhr, 1 Haus, im Jahr 1999, 5 %, 5%"),
        ("de", "12'000 und 12’000 und 12 000 und 3-4 und 007 und 030 12345 und $ 5, 5 €"),
        ("fr", "21 ans, 1 fille, 1er, 5€, 10h30, 3,5"),
        ("ru", "2 книги, 42 книги, 3.5, 1917"),
        ("es", "1º, 1.000.000, 2 libros"),
    ],
)
def test_unsure_numbers_stay_elsewhere(language, text):
    assert numbers_in_words(text, language) == text
