"""Word error rate of texts read back from codes, by characters where words are not spaced."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from ..text.writing_systems import LANGUAGES_WITHOUT_SPACES
from .languages import language_code

_POINTS = re.compile("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0670]")
"""Vowel points of Hebrew and Arabic (and the Arabic stroke that widens words): left out at will."""


@cache
def normaliser(language: str) -> Callable[[str], str]:
    """Whisper's normalisation for a language: English spelling, or case and punctuation alone.

    Vowels written as marks are kept, which Whisper drops. Hebrew's and Arabic's vowel points, which
    most texts do without, and invisible characters are not.
    """
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    name = language_code(language)
    if name == "en":
        return EnglishTextNormalizer()
    basic = BasicTextNormalizer(split_letters=name in LANGUAGES_WITHOUT_SPACES, preserve_marks=True)

    def normalise(text: str) -> str:
        text = _POINTS.sub("", unicodedata.normalize("NFC", text))
        return basic("".join(c for c in text if unicodedata.category(c) != "Cf"))

    return normalise


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str], language: str | Sequence[str] = "en"
) -> list[tuple[int, int]]:
    """Word errors and reference words of each text, after Whisper's normalisation.

    In `LANGUAGES_WITHOUT_SPACES` (Chinese, Japanese, Thai, Lao, Burmese, Khmer, Tibetan) a
    character is a word. A reference without words counts for nothing, (0, 0). `language` is that of
    all texts, or of each.
    """
    import jiwer

    languages = [language] * len(references) if isinstance(language, str) else language
    found = []
    for reference, hypothesis, name in zip(references, hypotheses, languages, strict=True):
        reference, hypothesis = map(normaliser(name), (reference, hypothesis))
        if not any(map(str.isalnum, reference)):
            found.append((0, 0))
            continue
        counted = jiwer.process_words(reference, hypothesis)
        errors = counted.substitutions + counted.deletions + counted.insertions
        found.append((errors, counted.hits + counted.substitutions + counted.deletions))
    return found


def word_error_rate(
    references: Sequence[str], hypotheses: Sequence[str], language: str | Sequence[str] = "en"
) -> float:
    """Word errors per reference word, over all texts; nan if there are none (see `word_errors`)."""
    return error_rate(word_errors(references, hypotheses, language))


def error_rate(counts: Iterable[tuple[int, int]]) -> float:
    """Errors per word of texts with (errors, words) each; nan if there are no words."""
    counts = list(counts)
    words = sum(words for _, words in counts)
    return sum(errors for errors, _ in counts) / words if words else float("nan")
