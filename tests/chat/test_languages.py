"""Which tokens an answer in a language may have."""

import pytest

from megatron_speech.chat.decoding import SamplingConfig
from megatron_speech.chat.languages import in_language
from megatron_speech.errors import ConfigError
from megatron_speech.speech_tokenizer.languages import language_code
from tests.interleaving.samples import make_vocab

SAMPLES = {
    "es": "ñandú", "fr": "garçon", "ru": "дом", "el": "σπίτι", "ar": "بيت", "he": "בית",
    "hi": "घर", "th": "บ้าน", "ja": "ひらカタ家", "ko": "집", "zh": "房子", "ka": "სახლი",
    "hy": "տուն", "my": "အိမ်", "km": "ផ្ទះ", "lo": "ເຮືອນ", "ta": "வீடு", "am": "ቤት", "pt-BR": "ção",
}  # fmt: skip


class Letters:
    """A tokenizer whose tokens are given."""

    def __init__(self, pieces):
        self.pieces, self.size = pieces, len(pieces)

    def decode(self, ids):
        return "".join(self.pieces[i] for i in ids)


@pytest.mark.parametrize("language", SAMPLES)
def test_a_language_has_its_own_letters_and_marks(language):
    kept = in_language(Letters([SAMPLES[language], "1. ", "\ufffd", "ᚠ", "ⴰ"]), language)
    assert kept.tolist() == [True, True, True, False, False]


def test_others_letters_are_left_out():
    kept = in_language(Letters(["casa", "дом", "房", "\ufffd"]), "en")
    assert kept.tolist() == [True, False, False, False]


def test_an_accented_letter_can_be_made_of_its_bytes(tmp_path):
    text = make_vocab(tmp_path).text  # bytes and English merges
    ids, _ = text.offsets("ñ")
    assert len(ids) == 2
    assert in_language(text, "es")[list(ids)].all()
    assert not in_language(text, "en")[list(ids)].any()


def test_whispers_languages_have_a_script():
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    for code in LANGUAGES:
        assert in_language(Letters(["1"]), language_code(code)).all()


def test_an_unknown_language_is_refused_at_once():
    with pytest.raises(ConfigError, match="'xx'; known are af, am, "):
        SamplingConfig(language="xx")
