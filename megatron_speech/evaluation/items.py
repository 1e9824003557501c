"""Reading evaluation items from JSON lines."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from ..errors import DataError
from ..io.json_lines import is_unicode, parse_object
from ..io.rejected import Rejected


@dataclass(frozen=True, kw_only=True)
class ClozeItem:
    """The beginning of a story, its right ending and a wrong one."""

    id: str
    task: str
    """Which set the item belongs to: topic or story."""
    context: tuple[str, ...]
    """Sentences, in order, without leading spaces."""
    right: str
    wrong: str

    @property
    def context_text(self) -> str:
        """The beginning as running text."""
        return " ".join(self.context)


@dataclass(frozen=True, kw_only=True)
class QuestionItem:
    """A question with the answers that count as right."""

    id: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ChatItem:
    """Something to ask a chat model."""

    id: str
    kind: str
    """By which results are grouped."""
    turns: tuple[str, ...]
    """What the user says; the reply to the last turn counts."""
    answers: tuple[str, ...]
    """Right answers."""
    wrong: tuple[str, ...]
    """Wrong ones: the reply is right if it is nearer to a right one. Without any it is right if it
    contains a right one."""
    chance: float
    """Share that guessing would get; of replies that choose, where there are wrong answers."""


_KINDS = {str: "text", float: "a share from 0 to 1", tuple[str, ...]: "a list of texts"}

Item = TypeVar("Item", ClozeItem, QuestionItem, ChatItem)


def read_cloze(path: str | Path) -> list[ClozeItem]:
    """Read cloze items: one JSON object a line with the fields of `ClozeItem`.

    Raises:
        DataError: a missing or empty file, or a line that is not such an item.
    """
    return _read(path, ClozeItem)


def read_cloze_sets(paths: Sequence[str | Path]) -> list[ClozeItem]:
    """The items of several files, whose tasks must have different names.

    Raises:
        DataError: as `read_cloze`, or two files hold a task of one name.
    """
    items: list[ClozeItem] = []
    held: dict[str, str | Path] = {}
    for path in paths:
        found = read_cloze(path)
        for task in dict.fromkeys(item.task for item in found):
            if task in held:
                raise DataError(
                    f"{held[task]} and {path} both hold a task called {task!r}, and their results "
                    "would be one; name them apart (tools/make_cloze.py --name)"
                )
            held[task] = path
        items += found
    return items


def read_questions(path: str | Path) -> list[QuestionItem]:
    """Read questions: one JSON object a line with the fields of `QuestionItem`.

    Raises:
        DataError: a missing or empty file, or a line that is not such an item.
    """
    return _read(path, QuestionItem)


def read_chat_items(path: str | Path) -> list[ChatItem]:
    """Read chat items: one JSON object a line with the fields of `ChatItem`.

    Raises:
        DataError: a missing or empty file, or a line that is not such an item.
    """
    items = _read(path, ChatItem)
    silent = [item.id for item in items if not item.turns or not item.answers]
    if silent:
        raise DataError(f"{path}: item {silent[0]!r} has no turns or no answers")
    return items


def by_task(items: Sequence[ClozeItem], limit: int | None) -> dict[str, list[ClozeItem]]:
    """Items grouped by task, in order of first appearance, at most `limit` of each."""
    grouped: dict[str, list[ClozeItem]] = {}
    for item in first_of_each(items, lambda item: item.task, limit):
        grouped.setdefault(item.task, []).append(item)
    return grouped


def first_of_each[Kept](
    items: Sequence[Kept], kind: Callable[[Kept], str], limit: int | None
) -> list[Kept]:
    """At most `limit` items of each kind, in their order."""
    seen = Counter[str]()
    kept = []
    for item in items:
        seen[kind(item)] += 1
        if limit is None or seen[kind(item)] <= limit:
            kept.append(item)
    return kept


def _read(path: str | Path, kind: type[Item]) -> list[Item]:
    names = [field.name for field in fields(kind)]
    hints = get_type_hints(kind)
    items = []
    for number, line in enumerate(_lines(Path(path)), start=1):
        record = parse_object(f"line {number}", line)
        if isinstance(record, Rejected):
            expected = "UTF-8" if record.reason == "invalid_utf8" else "JSON"
            raise DataError(f"{path}, line {number} is not {expected}: {record.detail}")
        if not is_unicode(json.dumps(record, ensure_ascii=False)):
            raise DataError(f"{path}, line {number} holds half a surrogate pair (\\ud800...)")
        if not set(names) <= record.keys():
            got = sorted(record)
            raise DataError(
                f"{path}, line {number} needs the fields {', '.join(sorted(names))}; "
                f"got {', '.join(got)}"
            )
        values: dict[str, Any] = {
            name: tuple(record[name]) if isinstance(record[name], list) else record[name]
            for name in names
        }
        wrong = [name for name in names if not _fits(values[name], hints[name])]
        if wrong:
            raise DataError(
                f"{path}, line {number}: {wrong[0]} is {str(record[wrong[0]])[:80]!r}, expected "
                f"{_KINDS[hints[wrong[0]]]}"
            )
        items.append(kind(**values))
    if not items:
        raise DataError(f"{path} holds no items; expected one JSON object a line")
    return items


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value can be that of a field of type `kind`."""
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value <= 1
    if kind is str:
        return isinstance(value, str)
    return isinstance(value, tuple) and all(isinstance(text, str) for text in value)


def _lines(path: Path) -> list[bytes]:
    try:
        return [line for line in path.read_bytes().splitlines() if line.strip()]
    except FileNotFoundError:
        raise DataError(f"evaluation items {path} do not exist") from None
