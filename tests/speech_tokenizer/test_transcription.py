"""Word errors count what a reader of the script would call an error, and nothing else."""

import pytest

from megatron_speech.speech_tokenizer.text import spoken_words
from megatron_speech.speech_tokenizer.transcription import word_error_rate


@pytest.mark.parametrize(
    ("language", "said", "read", "rate"),
    [
        ("en", "Colour me happy", "color me happy!", 0),
        ("hi", "पानी ठंडा है।", "पानी ठंडा है", 0),
        ("hi", "पानी ठंडा", "पाना ठंडी", 1),
        ("ta", "மழை பெய்கிறது", "மழை பேய்கிறது", 0.5),
        ("bn", "ভালো", "ভালে", 1),
        ("te", "నీరు", "నేరు", 1),
        ("th", "กิน", "กีน", 0.5),
        ("km", "ទឹក", "ទឺក", 0.5),
        ("lo", "ກິນ", "ກີນ", 0.5),
        ("my", "ရိ", "ရီ", 1),
        ("zh_Hant", "今天下雨", "今天下雪", 0.25),
        ("ko", "비가 온다", "비가 안다", 0.5),
        ("ar", "كَتَبَ الولد", "كتب الولد", 0),
        ("he", "שָׁלוֹם", "שלום", 0),
        ("fa", "می\u200cروم", "میروم", 0),
        ("fr", "l’été", "l'e\u0301te\u0301", 0),
        ("ru", "Ёлка стоит", "елка стоит", 0.5),
    ],
)
def test_word_errors_by_script(language, said, read, rate):
    assert word_error_rate([said], [read], language) == pytest.approx(rate)


def test_words_keep_their_marks():
    assert spoken_words("पानी, ठंडा!") == " पानी ठंडा"
    assert spoken_words("มีน้ำ? ÉTÉ") == " มีน้ำ été"
    assert spoken_words("snake_case—2 o'clock") == " snake_case 2 o'clock"
