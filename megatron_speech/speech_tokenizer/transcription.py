"""Word error rate of texts read back from codes."""

from collections.abc import Sequence
from functools import cache


@cache
def _normaliser(language: str):
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str], language: str = "en"
) -> list[tuple[int, int]]:
    """Word errors and reference words of each text, after Whisper's normalisation.

    Texts whose reference has no words after normalisation are left out.
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
    counts = word_errors(references, hypotheses, language)
    words = sum(words for _, words in counts)
    return sum(errors for errors, _ in counts) / words if words else float("nan")
