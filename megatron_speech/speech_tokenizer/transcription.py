"""Word error rate of texts read back from codes, by characters where words are not spaced."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache

UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf"
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""A character of a script that puts no spaces between words: Thai, Lao, Burmese, Khmer, Tai
scripts, kana, Han."""
_WITHOUT_SPACES = ("zh", "yue", "wuu", "ja", "th", "lo", "my", "km")
_POINTS_LEFT_OUT = ("ar", "fa", "ur", "ps", "sd", "he", "yi")
"""Vowels are points above and below there, which hardly anybody writes."""
_INVISIBLE = re.compile("[\u00ad\u0640\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


@cache
def normaliser(language: str) -> Callable[[str], str]:
    """Whisper's normalisation of texts in a language (`de`, `pt-BR`), as words between spaces.

    Where words are not spaced, each written character becomes one. Vowel signs of Indic and other
    scripts are letters like others; optional points of Arabic and Hebrew are left out.
    """
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    name = language.lower().replace("_", "-").split("-")[0]
    if name == "en":
        return EnglishTextNormalizer()
    basic = BasicTextNormalizer(split_letters=name in _WITHOUT_SPACES, preserve_marks=True)

    def normalise(text: str) -> str:
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
        if name in _POINTS_LEFT_OUT:
            text = "".join(one for one in text if unicodedata.category(one) != "Mn")
        return basic(text).strip()

    return normalise


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str], language: str = "en"
) -> list[tuple[int, int]]:
    """Word errors and reference words of each text, after Whisper's normalisation.

    In languages written without spaces (zh, yue, wuu, ja, th, lo, my, km) a character, with its
    marks, is a word. Texts whose reference has no words after normalisation are left out.
    """
    import jiwer

    normalise = normaliser(language)
    found = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        reference, hypothesis = normalise(reference), normalise(hypothesis)
        if any(map(str.isalnum, reference)):
            counted = jiwer.process_words(reference, hypothesis)
            errors = counted.substitutions + counted.deletions + counted.insertions
            found.append((errors, counted.hits + counted.substitutions + counted.deletions))
    return found


def word_error_rate(
    references: Sequence[str], hypotheses: Sequence[str], language: str = "en"
) -> float:
    """Word errors per reference word, over all texts; nan if there are none (see `word_errors`)."""
    return error_rate(word_errors(references, hypotheses, language))


def error_rate(counts: Iterable[tuple[int, int]]) -> float:
    """Errors per word of texts with (errors, words) each; nan if there are no words."""
    counts = list(counts)
    words = sum(words for _, words in counts)
    return sum(errors for errors, _ in counts) / words if words else float("nan")
