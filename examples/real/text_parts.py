"""Ordinary English prose as JSON lines of id and text: novels, and manuals of Debian."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

from examples.real.r_data import read_lazy_data
from megatron_speech.errors import DataError
from megatron_speech.io.files import write_text

_CHAPTER = re.compile(r"^\s*chapter\s+[\divxlc]+\.?\s*$", re.IGNORECASE)
_SHORTEST = 500  # characters of a document
_FEWEST_WORDS = 8  # of a paragraph of a manual: what is shorter is a caption or a list of links
_UNREAD = {"pre", "script", "style", "nav", "footer", "table"}


def make_novels(members: Mapping[str, bytes], folder: Path) -> None:
    """One document a chapter, without its heading; paragraphs on one line each.

    Raises:
        DataError: the package holds no novels.
    """
    rdx, rdb = (_ending(members, suffix) for suffix in (".rdx", ".rdb"))
    novels = read_lazy_data(rdx, rdb)
    _write(folder, (
        (f"{name}-{n:02d}", text)
        for name, lines in sorted(novels.items())
        for n, text in enumerate(_chapters([line or "" for line in lines]), 1)
    ))  # fmt: skip


def _chapters(lines: list[str]) -> Iterator[str]:
    starts = [n for n, line in enumerate(lines) if _CHAPTER.match(line)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        text = "\n".join(line.strip() for line in lines[start + 1 : end]).replace("_", "")
        paragraphs = (" ".join(part.split()) for part in re.split(r"\n{2,}", text))
        yield "\n\n".join(part for part in paragraphs if part)


def make_manuals(members: Mapping[str, bytes], folder: Path) -> None:
    """One document a page of HTML: its paragraphs of running text.

    Raises:
        DataError: not one page has any.
    """
    seen: set[str] = set()  # a book may be there in pages and in one page
    pages = (
        (_page_name(path), _prose(content.decode("utf-8", "replace"), seen))
        for path, content in members.items()
    )
    _write(folder, pages)


def _page_name(path: str) -> str:
    place = Path(path.removeprefix("usr/share/").removeprefix("doc/"))
    return f"{place.parts[0]}-{place.name.removesuffix('.html').removesuffix('.en')}"


def _prose(page: str, seen: set[str]) -> str:
    reader = _Paragraphs()
    reader.feed(page)
    reader.close()
    long = (p for p in dict.fromkeys(reader.paragraphs) if len(p.split()) >= _FEWEST_WORDS)
    new = [paragraph for paragraph in long if paragraph not in seen]
    seen.update(new)
    return "\n\n".join(new)


class _Paragraphs(HTMLParser):
    """Text of the elements that are paragraphs and lie in running text."""

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: list[str] = []
        self._words: list[str] | None = None
        self._unread = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._unread += tag in _UNREAD
        if tag in ("p", "div"):
            self._end()
        if tag == "p" or ("class", "para") in attrs:  # of DocBook's XHTML by Publican
            self._words = []

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNREAD:
            self._unread = max(self._unread - 1, 0)
        if tag in ("p", "div", "body"):
            self._end()

    def handle_data(self, data: str) -> None:
        if self._words is not None and not self._unread:
            self._words.append(data)

    def close(self) -> None:
        super().close()
        self._end()

    def _end(self) -> None:
        if self._words is not None and (text := " ".join("".join(self._words).split())):
            self.paragraphs.append(text.replace("\N{PILCROW SIGN}", "").strip())
        self._words = None


def _ending(members: Mapping[str, bytes], suffix: str) -> bytes:
    found = [content for name, content in members.items() if name.endswith(suffix)]
    if len(found) != 1:
        raise DataError(f"the package holds {len(found)} files *{suffix}, expected one")
    return found[0]


def _write(folder: Path, documents: Iterable[tuple[str, str]]) -> None:
    kept = [(name, text) for name, text in documents if len(text) >= _SHORTEST]
    if not kept:
        raise DataError(f"no document of {_SHORTEST} characters in it")
    lines = (json.dumps({"id": name, "text": text}, ensure_ascii=False) for name, text in kept)
    write_text(folder / "text.jsonl", "\n".join(lines) + "\n")
