"""What of a text is markup: stretches of it that no one would say, and marks to be left out."""

import re
from collections.abc import Iterator
from itertools import islice

from .writing_systems import WRAPPED_LINE

_ROFF = re.compile(r"^\.[ \t]*(?:TH|SH|Dd|Sh)(?:[ \t]|$)", re.MULTILINE)
_ROFF_LINE = re.compile(r"^[.'](?:[A-Z][A-Za-z]?(?:[ \t]|$)|\\\")", re.MULTILINE)
_DOCTEST = re.compile(r"^[ \t]*>>> [^\n]*(?:\n[^\S\n]*\S[^\n]*)*", re.MULTILINE)
# reStructuredText: what is indented below a line is a block of its own
_DIRECTIVE = re.compile(r"[ \t]*\.\.[ \t]+(?:([\w:.-]+)::|\S)")
_NOT_PROSE = frozenset(
    "code code-block sourcecode parsed-literal literalinclude highlight doctest testcode testsetup "
    "testoutput productionlist math graphviz digraph uml csv-table list-table toctree image raw "
    "index include".split()
)
_LEFT_MARKS = re.compile(r"(?<![^\W_])[*_]+(?=[^\W_]|[\"'“‘«(\[])")
_RIGHT_MARKS = re.compile(r"(?<=[^\s*_])[*_]+(?![^\W_])")
_BULLETS = frozenset(
    ("*", "**", "***", "•", "‣", "#.", "#", "##", "###", "####", "#####", "######")
)


def is_roff(text: str) -> bool:
    """Whether this is the source of a manual page (man or mdoc), which is for `man` to print."""
    return bool(_ROFF.search(text)) or len(list(islice(_ROFF_LINE.finditer(text), 3))) == 3


def code_blocks(text: str) -> Iterator[tuple[int, int]]:
    """Start and stop of doctests and, in reStructuredText, of what is literal or no prose."""
    if ">>> " in text:
        yield from (match.span() for match in _DOCTEST.finditer(text))
    if "::" in text or "\n.. " in text:
        yield from _literal_blocks(text)


def _literal_blocks(text: str) -> Iterator[tuple[int, int]]:
    """Lines further in than one that ends with `::`; directives, comments, and what some hold."""
    start, block, depth = 0, -1, 0  # a block's first character, and how far its opening line is in
    for line in text.split("\n"):
        inside = line.strip()
        indent = len(line) - len(line.lstrip())
        if block >= 0 and inside and indent <= depth:
            yield block, start
            block = -1
        if block < 0 and inside:
            directive = _DIRECTIVE.match(line)
            if directive:
                yield start, start + len(line)
            literal = directive[1] in _NOT_PROSE if directive else inside.endswith("::")
            if literal:
                block, depth = start + len(line), indent
        start += len(line) + 1
    if block >= 0:
        yield block, len(text)


def spoken_text(text: str, start: int, stop: int) -> str:
    """What is spoken of characters start..stop: the words, one space between them.

    Marks of emphasis (`_him_`, `**bold**`), of headings and of lists are left out. Where a line
    ends within Chinese, Japanese or Thai there is no space.
    """
    piece = text[start:stop]
    if "\n" in piece:
        piece = WRAPPED_LINE.sub("", piece)
    if "_" in piece or "*" in piece:
        piece = _RIGHT_MARKS.sub("", _LEFT_MARKS.sub("", piece))
    return " ".join(word for word in piece.split() if word not in _BULLETS)
