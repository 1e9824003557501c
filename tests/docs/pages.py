"""The documentation as its tests see it: pages, code blocks, links and how each block is run.

A comment before a block says how it is run; without one it runs in the tests:

    <!-- run: long -->             in `make test-long`, after the blocks before it
    <!-- run: needs a GPU -->      nowhere here, for what it needs; its flags are checked
    <!-- run: ci -->               its make targets are steps of .ci/run
"""

import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
RUN = {"bash", "python"}
SHOWN = {"mermaid", "text", "yaml", "json", "toml", "dockerfile"}
NEEDS = {"a GPU", "a Slurm cluster", "Docker", "a base model", "your data", "a network"}
_MARKER = re.compile(r"<!-- run: (long|ci|needs ([A-Za-z ,]+)) -->\s*")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced code block: its page, first line, language, text and the marker before it."""

    page: Path
    line: int
    language: str
    text: str
    how: str

    @property
    def name(self) -> str:
        """Where a reader finds it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def needs(self) -> set[str]:
        """What it needs that is not here; empty where it is run."""
        return set(self.how.removeprefix("needs ").split(", ")) if "needs" in self.how else set()


def pages() -> list[Path]:
    """All Markdown files, README first: its blocks make what those of other pages read."""
    folders = [ROOT, *(ROOT / name for name in ("docs", "benchmarks", "examples", "docker"))]
    found = {path for folder in folders[:1] for path in folder.glob("*.md")}
    found |= {path for folder in folders[1:] for path in folder.rglob("*.md")}
    return sorted(found, key=lambda path: (path != ROOT / "README.md", path))


@cache
def tokens(page: Path) -> list[Token]:
    """The page, parsed as CommonMark with tables."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> list[Block]:
    """The page's fenced blocks in order, each with its marker (`quick` without one)."""
    found: list[Block] = []
    how = "quick"
    for token in tokens(page):
        if token.type == "html_block" and token.content.startswith("<!-- run"):
            marker = _MARKER.fullmatch(token.content)
            how = marker[1] if marker else token.content.strip()
        elif token.type == "fence":
            line = (token.map or [0])[0] + 1
            language = token.info.split()[0] if token.info else ""
            found.append(
                Block(page=page, line=line, language=language, text=token.content, how=how)
            )
            how = "quick"
        elif not token.type.endswith("_close"):
            how = "quick"
    return found


def all_blocks() -> list[Block]:
    """Every block of every page, in the order in which they are run."""
    return [block for page in pages() for block in blocks(page)]


def inline(page: Path, kind: str) -> list[Token]:
    """Tokens of a kind (`code_inline`, `link_open`, `image`) in the page's text and tables."""
    children = [child for token in tokens(page) for child in token.children or []]
    return [child for child in children if child.type == kind]


def anchors(page: Path) -> set[str]:
    """What `#...` may name in the page, as GitHub and GitLab make it of headings."""
    found: set[str] = set()
    for opening, heading in pairwise(tokens(page)):
        if opening.type != "heading_open":
            continue
        text = "".join(
            child.content
            for child in heading.children or []
            if child.type in ("text", "code_inline")
        )
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = 0
        while (anchor := slug if not number else f"{slug}-{number}") in found:
            number += 1
        found.add(anchor)
    return found
