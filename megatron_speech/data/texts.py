"""Texts in files of their own, beside a recording or in a tar."""

import stat
from pathlib import Path

MOST_TEXT_BYTES = 1 << 20
"""No single utterance has more."""


def decoded_text(content: bytes) -> str:
    """UTF-8 without a byte-order mark and without blanks around it.

    Raises:
        UnicodeDecodeError: it is none.
    """
    return content.decode("utf-8-sig").strip()


def read_text(path: Path) -> str:
    """The text in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no file, no UTF-8, or too long to be one utterance's.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("it is no file")
    if state.st_size > MOST_TEXT_BYTES:
        raise ValueError(f"it has {state.st_size:,} bytes, at most {MOST_TEXT_BYTES:,}")
    return decoded_text(path.read_bytes())
