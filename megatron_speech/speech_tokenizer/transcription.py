"""Word error rate of texts read back from codes, by characters where words are not spaced."""

from collections.abc import Iterable, Sequence
from functools import cache

_WITHOUT_SPACES = ("zh", "yue", "ja", "th", "lo", "my")


@cache
def _normaliser(language: str):
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    name = language.lower().replace("_", "-").split("-")[0]
    if name in _WITHOUT_SPACES:
        return BasicTextNormalizer(split_letters=True, preserve_marks=True)
    return EnglishTextNormalizer() if name == "en" else BasicTextNormalizer()


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str], language: str = "en"
) -> list[tuple[int, int]]:
    """Word errors and reference words of each text, after Whisper's normalisation.

    In languages written without spaces (zh, yue, ja, th, lo, my) a character is a word. Texts whose
    reference has no words after normalisation are left out.
    """
    import jiwer

    normalise = _normaliser(language)
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
