"""What a benchmark is made of, whatever its layout. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """Something said, with what is known of it."""

    key: str
    """Names it within the benchmark: its file below the folder, without suffix."""
    text: str | None = None
    """What is said; None where the benchmark has audio alone."""
    audio: Path | bytes | None = None
    """A file, or the bytes of one (Parquet)."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A right and a wrong one: which does the model find likelier?"""

    id: str
    parts: tuple[str, ...]
    """Results it counts in."""
    tally: str
    """Pairs of one tally, one sentence in several voices, are averaged before anything else."""
    right: Utterance
    wrong: Utterance
    context: tuple[Utterance, ...] = ()
    """What both continue; empty where right and wrong are whole."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with the answers that count."""

    id: str
    parts: tuple[str, ...]
    question: Utterance
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A solved example; its question is heard or read as the item's is."""

    question: Utterance
    answer: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A question with its options read out in it, and the answers to choose from."""

    id: str
    parts: tuple[str, ...]
    question: Utterance
    options: tuple[str, ...]
    right: int
    """Which of the options."""
    opening: Utterance | None = None
    """Said before all examples."""
    shots: tuple[Shot, ...] = ()


Item = Pair | Question | Choice


def utterances_of(item: Item) -> list[Utterance]:
    """All that is said in an item, in order."""
    if isinstance(item, Pair):
        return [*item.context, item.right, item.wrong]
    if isinstance(item, Question):
        return [item.question]
    opening = [item.opening] if item.opening is not None else []
    return [*opening, *(shot.question for shot in item.shots), item.question]


def wrong_layout(path: Path, expected: str, detail: str = "") -> DataError:
    """What to raise for a folder that is not laid out as the benchmark is published."""
    if not path.is_dir():
        return DataError(f"{path} is no folder; expected {expected}")
    names = sorted(entry.name for entry in path.iterdir())
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
    return DataError(f"{path}: expected {expected}; it holds {shown}{detail and '. ' + detail}")


def unique(path: Path, items: list[Any]) -> list[Any]:
    """The items, whose ids differ.

    Raises:
        DataError: an id comes twice.
    """
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise DataError(f"{path}: item {item.id!r} comes twice")
        seen.add(item.id)
    return items
