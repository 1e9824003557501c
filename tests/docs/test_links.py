"""What the documentation names exists: links, anchors, files, make targets, messages."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, anchors, inline, pages, tokens

PAGES = pages()
FOLDERS = (
    "benchmarks",
    "docker",
    "docs",
    "examples",
    "kernels",
    "megatron_speech",
    "tests",
    "tools",
)
PAST = ("CHANGELOG.md", "docs/log.md")
"""Their older entries name what there was on that day."""
_FILE = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]+\.(?:py|sh|sbatch|jsonl|json|md|svg)\b")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page):
    broken = []
    for link in [*inline(page, "link_open"), *inline(page, "image")]:
        target = str(link.attrGet("href") or link.attrGet("src"))
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and (file.suffix != ".md" or anchor not in anchors(file))):
            broken.append(target)
    assert not broken, f"{name(page)}: {broken}"


@pytest.mark.parametrize("page", [page for page in PAGES if name(page) not in PAST], ids=name)
def test_files_and_targets_that_are_named_exist(page):
    rules = re.findall(r"^([a-z][a-z0-9 -]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    targets = " ".join(rules).split()
    code = [token.content for token in inline(page, "code_inline")]
    code += [token.content for token in tokens(page) if token.type == "fence"]
    missing = [file for text in code for file in _FILE.findall(text) if not (ROOT / file).exists()]
    for text in code:
        called = re.match(r"make ([a-z][a-z0-9-]+)", text)
        if called and called[1] not in targets:
            missing.append(text)
    assert not missing, f"{name(page)} names what does not exist: {missing}"


def test_a_wrong_anchor_is_found():
    assert "where-things-are" in anchors(ROOT / "README.md")
    assert "where-things-ar" not in anchors(ROOT / "README.md")


def messages() -> Iterator[str]:
    """Every string of the package, with … for what is put into it."""
    for path in (ROOT / "megatron_speech").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def quoted_messages() -> list[str]:
    """The messages that troubleshooting.md has as headings."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^### `(.+)`$", text, flags=re.MULTILINE)


def test_messages_in_troubleshooting_are_those_of_the_code():
    known = list(messages())
    quoted = quoted_messages()
    assert len(quoted) >= 20
    for message in quoted:
        parts = [re.escape(part) for part in message.split("…") if part]
        pattern = re.compile(".*?".join(parts), flags=re.DOTALL)
        assert any(pattern.search(text) for text in known), f"no code says: {message}"


def test_every_page_can_be_reached_from_the_readme():
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        for link in inline(page, "link_open"):
            target = str(link.attrGet("href")).partition("#")[0]
            if target and not re.match(r"[a-z]+:", target):
                todo.append((page.parent / target).resolve())
    left_out = [name(page) for page in PAGES if page not in reached]
    assert left_out in ([], ["CHANGELOG.md"]), f"no link leads to {left_out}"
