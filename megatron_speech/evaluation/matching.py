"""Whether an answer holds a reference answer, in any script."""

import re
import unicodedata
from collections.abc import Sequence

from ..speech_tokenizer.transcription import normaliser
from ..text.writing_systems import HANGUL, WITHOUT_SPACES

_INITIALS = re.compile(r"\b[^\W\d_](?:\.[^\W\d_])+\b\.?")
_SIGNS = {"+": "plus", "#": "sharp", "*": "star"}
_SIGNED = re.compile(r"(?<=\w)[+#*]+(?!\w)")
_BELOW_ZERO = re.compile(r"(?<![\w)])[-−](?=\d)")
_SAID_SIGNS = re.compile(r"\b[a-z](?: plus plus| sharp)\b", re.IGNORECASE)
_PARTICLES = (
    "은|는|이|가|을|를|의|에|에서|에게|께서|께|한테|로|으로|와|과|랑|이랑|도|만|까지|부터|보다|처럼"
    "|이다|다|이며|이고|입니다|예요|이에요|에요|이야|야|이었다|였다|이었습니다|였습니다|요|이요"
)


def is_right(answer: str, references: Sequence[str]) -> bool:
    """Whether a reference occurs in the answer as whole words, both normalised.

    Scripts without spaces have no words to see: there any place in the answer counts, so that a
    short reference is also found inside a longer name. Korean words may carry particles.
    """
    return any(_holds(answer, reference) for reference in references)


def _holds(answer: str, reference: str) -> bool:
    normalise = _english if _is_latin(reference) else normaliser("und")
    wanted, said = (
        " ".join(normalise(WITHOUT_SPACES.sub(r" \g<0> ", text)).split())
        for text in (reference, answer)
    )
    if not wanted:
        return False
    after = f"(?:{_PARTICLES})*" if HANGUL.search(wanted[-1]) else ""
    return re.search(rf"(?<!\S){re.escape(wanted)}{after}(?!\S)", said) is not None


def _is_latin(text: str) -> bool:
    return all(unicodedata.name(c, "").startswith("LATIN") for c in text if c.isalpha())


def _english(text: str) -> str:
    """English normalisation in which C++ is another word than C, -5 than 5, and U.S.A. is USA."""
    text = _BELOW_ZERO.sub("minus ", text)
    text = _INITIALS.sub(lambda match: match[0].replace(".", ""), text)
    text = _SIGNED.sub(lambda match: "".join(_SIGNS[sign] for sign in match[0]), text)
    return normaliser("en")(_SAID_SIGNS.sub(lambda match: match[0].replace(" ", ""), text))
