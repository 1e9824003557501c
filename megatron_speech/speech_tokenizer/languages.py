"""Languages as manifests name them, and as Whisper's tokens and word errors do."""

from functools import cache

from ..text.writing_systems import base_language

# Tags of BCP 47 that stand for what Whisper has a token for under another one.
_SAME = {"nb": "no", "iw": "he", "in": "id", "fil": "tl", "jv": "jw", "cmn": "zh"}


@cache
def language_code(name: str) -> str:
    """Whisper's code of a language: `en` of `en`, `EN`, `en-US`, `en_us` and `English`.

    A name that is not known stays as it is, in lower case and without region or script.
    """
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    name = name.strip().lower()
    code = TO_LANGUAGE_CODE.get(name) or base_language(name)
    return _SAME.get(code, code)
