"""What of a text can be said: stretches that cannot, and the kind of content."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .markup import code_blocks, is_roff
from .numbers import num2words
from .writing_systems import WITHOUT_SPACES

# Most prose is told by this one search; all patterns here take time linear in the text
_SUSPECT = re.compile(
    r"[`$\\<>|{}=@_\t^~±×÷∑∫√∈∀∃→⇒≈≠≤≥\u2500-\u257f]|/[\w.]*[/.]|\.(?:[a-z_/]|[A-Z]\w|\d+\.\d)"
    r"|[a-z]{2}[A-Z]|\d(?:\d{6}|[A-Za-z]+\d)|\S{61}| (?:\+ | {2}\S)|\)[:;]|\w\(|[-*#+~]{3}"
    r"|[\s(\[]--?[A-Za-z]|import |(?:else|try|finally):|(?:unsigned|const|struct) "
    r"|(?:^|\s)\W?[/\[]\w|U\+|::|\s:[a-z]"
)
_BLOCKS = (
    ("```", "```", "code"), ("<!--", "-->", "code"), ("$$", "$$", "maths"), ("\\[", "\\]", "maths"),
)  # fmt: skip
_ENVIRONMENT = re.compile(r"\\(begin|end)\{[^}\n]{0,40}\}")
_INLINE = (
    (re.compile(r"`[^`\n]{1,200}`"), "code"),
    (re.compile(r"</?[A-Za-z][^<>\n]{0,200}>"), "code"),
    (re.compile(r"\$(?=[^$\n]{0,200}[\\^_=+{}])[^$\n]{1,200}\$"), "maths"),
    (re.compile(r"\\\([^\n]{1,200}?\\\)"), "maths"),
)
_LONGEST_LINE = 1000  # a longer one is a paragraph, no line of code
_CODE_LINES = tuple(
    re.compile(pattern)
    for pattern in (
        r"[{}]|[=!+]=|[=-]>|::|:=|&&|\|\|",
        r"(?:\w\(|=).{0,1000};[ \t]*$",
        r"^[ \t]*(?:def|class|elif|else|try|func|fn|public|private|static)\b.{0,1000}[:;{)][ \t]*$",
        r"^[ \t]*(?:import [\w.]+|from [\w.]+ import .{0,1000}|\#include .{0,1000})$",
        r"^[ \t]*(?:else|try|finally):[ \t]*$",
        r"^\s*\$ |^\S{1,60}@\S{1,60}[#$] ",  # typed into a terminal
        r"^[ \t]*(?:unsigned|const|struct|extern) .{0,1000}[,;({][ \t]*$|\*/|/\*",
        r"^[.'][A-Z]{2}(?: |$)|^[.']\\\"",  # roff
        r"^[ \t]*(?:const |let |var )?[\w.\[\]]{1,200} = .{0,1000}[\[(\"'.]",
    )
)
_TABLE_ROW = re.compile(
    r"[\u2500-\u257f]|\|.*\||\S(?: {3,}|\t)(?=\S).*\S(?: {3,}|\t)\S"
    r"|^[ \t]*[-=~*#^+_.]{3,}[ \t]*$"  # a ruled line
)
_LATEX = re.compile(r"\\[A-Za-z]{2,}")
_OPERATORS = frozenset("= == != >= <= + × ÷ < > ± ^ → ⇒ ≈ ≠ ≤ ≥ ∈ ∑ ∫ √ ∀ ∃".split())
_MATHS_WORD = re.compile(r"\\[A-Za-z]|\w[=^]|[∑∫√∀∃∈]")
_ADDRESS = re.compile(
    r"\w://|^\W?www\.|[^@]@[^@]{1,100}\.\w|^\W{0,3}~?/[^\W\d]|^\W?[A-Za-z]:\\"
    r"|\.{1,2}/|[\w.]/\w*\.[A-Za-z]\w|\d\.\d+\.\d+\.\d|/\w+(?:-\w+){2}|^\[[^\]]+\]:$"
)
_IDENTIFIER = re.compile(
    r"\w_\w|^\W?[a-z]{2,60}[A-Z]|\d{7}|\\(?:[_*-]|$)|^`[^`]*$|U\+[0-9A-Fa-f]{4}|\$(?:\{|[A-Za-z_]{3})"
    r"|[^\W\d_]\w+@?\.[a-z_]{2}"  # a name with a suffix or an attribute
    r"|\w\(\)|\w\([\"'*&\[{-]|\w\(\w+[,.(]|\w\(\w+\):"  # calls
    r"|^\W?[A-Za-z_][\w.-]*\(\d[a-z]?\)"  # ls(1)
    r"|^\W*--[a-z]|^[(\[\"'“‘]?-[A-Za-z]\W*$|^:\w[\w-]*:$|^\W?\.[a-z]"  # options
    r"|^\W*(?=\d*[a-f])(?=[a-f]*\d)[\da-f]{7,40}\W*$"  # commits
)
_LONGEST_WORD = 60
_WORD = re.compile(r"\S+")
_QUOTED = re.compile(
    '“[^”\\n]{0,1000}”|"[^"\\n]{1,1000}"|«[^»\\n]{0,1000}»'
    "|「[^」\\n]{0,1000}」|^[ \\t]*[—–]\\s[^\\n]*$",
    re.MULTILINE,
)
_LIST_ITEM = re.compile(r"^[ \t]*(?:[-*•‣+]|\d{1,3}[.)]|[a-z][.)])[ \t]+[^\n]*$", re.MULTILINE)
_DIGIT = re.compile(r"\d")

CONTENT_CLASSES = (
    "prose", "dialogue", "numbers", "lists", "code", "maths", "tables", "addresses",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SpeakableConfig:
    """What may be chosen to be spoken, and how it is written for the speaker."""

    skip_unspeakable: bool = True
    """Never choose code, formulas, tables, addresses, identifiers and long numbers. The share eta
    is then one of the remaining words."""
    spoken_numbers: bool = False
    """Write numbers out in words (num2words) in the texts to be spoken; documents keep theirs."""

    def __post_init__(self) -> None:
        if self.spoken_numbers:
            num2words()


class Content:
    """Where a document holds what; made once per document.

    `unspeakable` lists start, stop (in characters) and content class of what cannot be said.
    """

    def __init__(self, text: str):
        self._text = text
        self.unspeakable: list[tuple[int, int, str]] = []
        if _SUSPECT.search(text):
            self.unspeakable = _found_in(text)
        self._quoted = [match.span() for match in _QUOTED.finditer(text)]
        self._items = [match.span() for match in _LIST_ITEM.finditer(text)]

    @property
    def list_items(self) -> int:
        """Lines that are items of a list."""
        return len(self._items)

    def speakable(self, units: np.ndarray) -> np.ndarray:
        """Which units (u, 2) of ascending characters touch nothing unspeakable: (u,) bool."""
        kept = np.ones(len(units), bool)
        for start, stop, _ in self.unspeakable:
            first = np.searchsorted(units[:, 1], start, side="right")
            last = np.searchsorted(units[:, 0], stop, side="left")
            kept[first:last] = False
        return kept

    def kind(self, start: int, stop: int) -> str:
        """The content class of characters start..stop: the first that fits of code, maths, tables,
        addresses, numbers, lists, dialogue, prose."""
        found = {kind for a, b, kind in self.unspeakable if a < stop and start < b}
        for kind in ("code", "maths", "tables", "addresses"):
            if kind in found:
                return kind
        if _DIGIT.search(self._text, start, stop):
            return "numbers"
        for kind, places in (("lists", self._items), ("dialogue", self._quoted)):
            if any(a < stop and start < b for a, b in places):
                return kind
        return "prose"


def _found_in(text: str) -> list[tuple[int, int, str]]:
    if is_roff(text):
        return [(0, len(text), "code")]
    code = ((*block, "code") for block in code_blocks(text))
    return [*code, *_blocks(text), *_lines(text)]


def _blocks(text: str) -> Iterator[tuple[int, int, str]]:
    """Blocks between delimiters, to the end of the text where one is not closed."""
    for opening, closing, kind in _BLOCKS:
        start = text.find(opening)
        while start >= 0:
            stop = text.find(closing, start + len(opening))
            stop = len(text) if stop < 0 else stop + len(closing)
            yield start, stop, kind
            start = text.find(opening, stop)
    depth = start = 0
    for match in _ENVIRONMENT.finditer(text):
        start = match.start() if depth == 0 else start
        depth += 1 if match[1] == "begin" else -1
        if depth <= 0:
            yield start, match.end(), "maths"
            depth = 0


def _lines(text: str) -> Iterator[tuple[int, int, str]]:
    start = 0
    for line in text.split("\n"):
        if _SUSPECT.search(line):
            kind = _line_kind(line)
            places = [(0, len(line), kind)] if kind else _words(line)
            yield from ((start + a, start + b, kind) for a, b, kind in places)
        start += len(line) + 1


def _line_kind(line: str) -> str | None:
    """Code or a row of a table, if the whole line is."""
    if len(line) > _LONGEST_LINE:
        return None
    if _TABLE_ROW.search(line):
        return "tables"
    if _LATEX.search(line):  # has braces too
        return None
    return "code" if any(pattern.search(line) for pattern in _CODE_LINES) else None


def _words(line: str) -> Iterator[tuple[int, int, str]]:
    for pattern, kind in _INLINE:
        yield from ((*match.span(), kind) for match in pattern.finditer(line))
    words = list(_WORD.finditer(line))
    for number, match in enumerate(words):
        word = match[0]
        if word in _OPERATORS:  # with what stands beside it
            around = words[max(number - 1, 0) : number + 2]
            yield around[0].start(), around[-1].end(), "maths"
        elif kind := _word_kind(word):
            yield *match.span(), kind


def _word_kind(word: str) -> str | None:
    if len(word) > _LONGEST_WORD and not word.startswith("http"):
        return None if WITHOUT_SPACES.search(word) else "code"
    if _ADDRESS.search(word):
        return "addresses"
    if _MATHS_WORD.search(word):
        return "maths"
    mixed = len(word) > 11 and word.isalnum() and not word.isalpha() and not word.isdigit()
    return "code" if mixed or _IDENTIFIER.search(word) else None
