"""Word error rate of texts read back from codes."""

from collections.abc import Sequence
from functools import cache


@cache
def _normaliser(language: str):
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()


def word_error_rate(
    references: Sequence[str], hypotheses: Sequence[str], language: str = "en"
) -> float:
    """Word errors per reference word, over all texts, after Whisper's normalisation.

    Texts whose reference has no words after normalisation are left out; nan if none remains.
    """
    import jiwer

    normalise = _normaliser(language)
    pairs = [
        (normalise(reference), normalise(hypothesis))
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    pairs = [
        (reference, hypothesis)
        for reference, hypothesis in pairs
        if any(map(str.isalnum, reference))
    ]
    if not pairs:
        return float("nan")
    return jiwer.wer([r for r, _ in pairs], [h for _, h in pairs])
