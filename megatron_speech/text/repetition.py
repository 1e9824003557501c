"""How much a transcript repeats itself: recognisers that hear nothing they know fall into loops."""

import re
import zlib

MOST_REPETITION = 2.4
"""Whisper's own bound: it reads a segment again whose text is compressed further."""
_LOOP = re.compile(r"(\S+(?: \S+){0,5}?)(?: \1){3,}")
"""Up to six words, four times in a row."""


def repetition(text: str) -> float:
    """How many times smaller a text gets by zlib, as Whisper measures it; 99 of a loop."""
    if _LOOP.search(" ".join(text.lower().split())):
        return 99.0
    content = text.encode()
    return len(content) / len(zlib.compress(content)) if content else 0.0
