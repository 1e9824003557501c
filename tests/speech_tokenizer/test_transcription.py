"""Word errors are counted by the rules of each script."""

import unicodedata

import pytest

from megatron_speech.speech_tokenizer.transcription import normaliser, word_errors

SAME = [
    ("en", "It's 20 colours, Mr. Smith!", "it is twenty colors mister smith"),
    ("de", "Über Grüße,  „schön“", "über grüße schön"),
    ("ru", "Ещё — раз!", "ещё раз"),
    ("el", "Καλημέρα, κόσμε", "καλημέρα κόσμε"),
    ("ar", "مُحَمَّدٌ ذَهَبَ إلى البيت", "محمد ذهب إلى البيت"),
    ("ar", "الـــسلام", "السلام"),
    ("he", "שָׁלוֹם עוֹלָם", "שלום עולם"),
    ("hi", "मैं दिल्ली जाता हूँ।", "मैं दिल्ली जाता हूँ"),
    ("ta", "நான் வீட்டுக்கு போகிறேன்.", "நான் வீட்டுக்கு போகிறேன்"),
    ("th", "วันนี้ อากาศดี", "วันนี้อากาศดี"),
    ("km", "ថ្ងៃ\u200bនេះ", "ថ្ងៃនេះ"),
    ("zh-CN", "你好，世界。", "你好 世界"),
    ("ja", "ｶﾀｶﾅとＡＢＣ", "カタカナとabc"),
    ("ko", "안녕하세요, 여러분!", "안녕하세요 여러분"),
    ("vi", "Tiếng Việt", "tiếng việt"),
]
DIFFERENT = [  # errors, words
    ("de", "schön", "schon", (1, 1)),
    ("ru", "мир", "мыр", (1, 1)),
    ("ar", "ذهب إلى البيت", "ذهب إلى بيت", (1, 3)),
    ("hi", "किताब", "कुताब", (1, 1)),
    ("hi", "मैं दिल्ली जाता हूँ", "मां दल्ला जीती हां", (4, 4)),
    ("ta", "நான் வீட்டுக்கு", "நின் வாட்டாக்கா", (2, 2)),
    ("bn", "আমি ভাত খাই", "আমা ভাত খাই", (1, 3)),
    ("th", "ดี", "ดู", (1, 1)),
    ("km", "កា", "កូ", (1, 1)),
    ("ja", "かき", "がき", (1, 2)),
    ("zh", "你好", "你号", (1, 2)),
    ("vi", "ma má mà", "ma ma ma", (2, 3)),
    ("ko", "서울", "수울", (1, 1)),
]


@pytest.mark.parametrize(("language", "reference", "hypothesis"), SAME)
def test_what_is_written_otherwise_is_no_error(language, reference, hypothesis):
    ((errors, words),) = word_errors([reference], [hypothesis], language)
    assert (errors, words > 0) == (0, True)


@pytest.mark.parametrize(("language", "reference", "hypothesis", "expected"), DIFFERENT)
def test_another_letter_or_vowel_sign_is_an_error(language, reference, hypothesis, expected):
    assert word_errors([reference], [hypothesis], language) == [expected]


@pytest.mark.parametrize("text", ["café", "дом й", "がぎぐ", "한국어", "किताब क़लम", "Ångström"])
@pytest.mark.parametrize("language", ["fr", "ja", "hi"])
def test_composed_and_decomposed_letters_are_the_same(text, language):
    normalise = normaliser(language)
    forms = {normalise(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")}
    assert len(forms) == 1
