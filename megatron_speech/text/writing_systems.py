"""Writing systems, as far as rules about words depend on them. Imports no torch."""

import re

_RANGES_WITHOUT_SPACES = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    "\u1950-\u19df\u1a20-\u1aaf"  # Tai Le, New Tai Lue, Tai Tham
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
WITHOUT_SPACES = re.compile(f"[{_RANGES_WITHOUT_SPACES}]")
"""A character of a script whose words stand without spaces between them."""
_UNSPACED = f"[{_RANGES_WITHOUT_SPACES}\u3001-\u3003\u3008-\u3011\uff01-\uff0f\uff1a-\uff1f]"
WRAPPED_LINE = re.compile(rf"(?<={_UNSPACED})[^\S\n]*\n[^\S\n]*(?={_UNSPACED})")
"""Where a line of such a script goes on in the next: there is no space in what is said."""
HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")

LANGUAGES_WITHOUT_SPACES = frozenset("zh yue wuu ja th lo my km bo dz".split())


def base_language(language: str) -> str:
    """The language of a tag: en of en-GB, zh of zh_Hant."""
    return language.lower().replace("_", "-").partition("-")[0]
