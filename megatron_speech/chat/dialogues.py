"""Text dialogues -> turns that can be spoken. No torch.

A dialogue is `{"id": ..., "messages": [{"role": "user", "content": "..."}, ...]}`, one a line. It
is kept up to its first exchange that cannot be spoken; what stands behind would refer to something
never said. Reasons:

    no_messages, not_text, unknown_role, starts_with_assistant, not_alternating, no_answer,
    system_prompt                       the dialogue is none, or not ours to change
    empty_turn, nothing_to_say          a turn without words
    code, maths, tables, addresses      content that cannot be said (text/speakable.py)
    long_list, too_long                 longer than one would listen to
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError, require_within
from ..io.json_lines import is_unicode, parse_object, record_id
from ..io.rejected import Rejected
from ..text.corpora import Piece, is_parquet, read_lines
from ..text.numbers import numbers_in_words, require_language
from ..text.speakable import Content

_ROLES = ("user", "assistant")
_EMPHASIS = re.compile(r"(\*\*|__|(?<!\w)[*_](?=\w)|(?<=[\w.,!?])[*_](?!\w))")
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+", re.MULTILINE)
_QUOTE = re.compile(r"^[ \t]*>[ \t]?", re.MULTILINE)
_BULLET = re.compile(r"^[ \t]*(?:[-*•‣+]|\d{1,3}[.)])[ \t]+", re.MULTILINE)
_UNFINISHED_LINE = re.compile(r"(?<=[^\W_])[ \t]*\n(?=\s*\S)")


@dataclass(frozen=True, kw_only=True)
class SpokenTurnsConfig:
    """Which turns are spoken, and how they are written for it."""

    most_characters_per_turn: int = 600
    """Longer turns are left out: about 40 s of speech."""
    most_list_items: int = 5
    """Turns with more items of a list are left out."""
    drop_system_prompts: bool = False
    """Leave out a dialogue's own system message instead of the whole dialogue."""
    spoken_numbers: bool = False
    """Write numbers out in words (num2words), in text and speech alike."""
    turn_language: str = "en"
    """Language of --spoken-numbers (ISO 639-1)."""

    def __post_init__(self) -> None:
        require_within(self, 1, "most_characters_per_turn")
        require_within(self, 0, "most_list_items")
        if self.spoken_numbers:
            require_language(self.turn_language)


@dataclass(frozen=True)
class Dialogue:
    """Turns in order, the user's first, an answer to each."""

    id: str
    turns: tuple[str, ...]


def read_records(pieces: Sequence[Piece]) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    """JSON objects with their ids, or else file and line; unusable lines as `Rejected`.

    Raises:
        DataError: a file is damaged, or no JSON lines.
    """
    for piece in pieces:
        if is_parquet(piece.path):
            raise DataError(f"{piece.path} holds no JSON lines; convert it to .jsonl")
        for name, line in read_lines(piece):
            if not line.strip():
                continue
            record = parse_object(name, line)
            if isinstance(record, Rejected):
                yield record
                continue
            given = record_id(name, record)
            yield given if isinstance(given, Rejected) else (given, record)


def speakable_dialogue(
    name: str, record: dict[str, Any], config: SpokenTurnsConfig
) -> Iterator[Dialogue | Rejected]:
    """The dialogue, cut before what cannot be spoken, and why it was cut or left out.

    The id of a `Rejected` is that of the dialogue, or `<dialogue>/<turn>` where a turn is at fault.
    """
    contents, reason = _contents(record.get("messages"), config)
    if reason:
        yield Rejected(name, reason, f"keys: {list(record)[:8]}")
        return
    kept: list[str] = []
    for first in range(0, len(contents), 2):
        exchange = [spoken_form(text, config) for text in contents[first : first + 2]]
        faults = [turn_fault(text, config) for text in contents[first : first + 2]]
        faults += ["no_answer"] if len(faults) == 1 else []
        at_fault = next((n for n, fault in enumerate(faults) if fault), None)
        if at_fault is not None:
            turn = first + at_fault
            detail = contents[min(turn, len(contents) - 1)][:200]
            yield Rejected(turn_id(name, turn), faults[at_fault] or "", detail)
            break
        kept += exchange
    if kept:
        yield Dialogue(name, tuple(kept))


def turn_id(dialogue: str, turn: int) -> str:
    """How a turn's codes are named in code shards."""
    return f"{dialogue}/{turn:03d}"


def _contents(messages: Any, config: SpokenTurnsConfig) -> tuple[list[str], str | None]:
    """Texts of user and assistant in turn, or the reason why there are none."""
    if not isinstance(messages, list) or not messages:
        return [], "no_messages"
    if not all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages):
        return [], "not_text"
    if not is_unicode(*(message["content"] for message in messages)):
        return [], "invalid_utf8"
    roles = [message.get("role") for message in messages]
    if roles[0] == "system":
        if not config.drop_system_prompts:
            return [], "system_prompt"
        messages, roles = messages[1:], roles[1:]
    if not all(role in _ROLES for role in roles):
        return [], "unknown_role"
    if roles[:1] == ["assistant"]:
        return [], "starts_with_assistant"
    if any(one == two for one, two in itertools.pairwise(roles)):
        return [], "not_alternating"
    return [message["content"] for message in messages], None


def turn_fault(text: str, config: SpokenTurnsConfig) -> str | None:
    """Why a turn cannot be spoken, None if it can."""
    if not text.strip():
        return "empty_turn"
    content = Content(text)
    if content.unspeakable:
        return content.unspeakable[0][2]
    if content.list_items > config.most_list_items:
        return "long_list"
    said = spoken_form(text, config)
    if not any(map(str.isalnum, said)):
        return "nothing_to_say"
    return "too_long" if len(said) > config.most_characters_per_turn else None


def spoken_form(text: str, config: SpokenTurnsConfig) -> str:
    """The turn as it is said: no marks of layout, lines joined to sentences."""
    for mark in (_QUOTE, _HEADING, _BULLET, _EMPHASIS):
        text = mark.sub("", text)
    text = " ".join(_UNFINISHED_LINE.sub(". ", text).split())
    return numbers_in_words(text, config.turn_language) if config.spoken_numbers else text
