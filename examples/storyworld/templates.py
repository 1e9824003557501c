"""Sentence templates: `[a|b]` stands for a choice, `{N}` for a slot to fill.

A *wording* is one template line; its choices are small variations of the same wording. Early
wordings of a list are frequent, later ones rare.
"""

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from megatron_speech.errors import DataError

Item = TypeVar("Item")

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")

HELD_OUT_ONE_IN = 10
"""One in this many combinations of name, place and wording is kept for the tests."""


def pick(rng: random.Random, items: Sequence[Item]) -> Item:
    """One item, all equally likely (a fixed use of the generator, whatever Python's version)."""
    return items[int(rng.random() * len(items))]


def pick_index(rng: random.Random, count: int, skew: float) -> int:
    """An index below `count`; `skew` 1 is uniform, larger values prefer small indices."""
    return int(count * rng.random() ** skew)


def expand(template: str) -> tuple[str, ...]:
    """All variations of a template, its choices written out."""
    match = _CHOICE.search(template)
    if match is None:
        return (template,)
    head, tail = template[: match.start()], template[match.end() :]
    return tuple(
        variation
        for choice in match.group(1).split("|")
        for variation in expand(head + choice + tail)
    )


@dataclass(frozen=True)
class Wordings:
    """Ways to say one thing: for each wording its variations."""

    variations: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, *templates: str) -> "Wordings":
        """Expand templates once, so that drawing one later is quick."""
        if not templates:
            raise DataError("a list of wordings is empty; write at least one template")
        return cls(tuple(expand(template) for template in templates))

    def __len__(self) -> int:
        return len(self.variations)

    def draw(self, rng: random.Random, skew: float = 1.0) -> tuple[int, str]:
        """The number of a wording and one of its variations."""
        index = pick_index(rng, len(self.variations), skew)
        return index, pick(rng, self.variations[index])

    def say(self, rng: random.Random, slots: Mapping[str, str]) -> str:
        """A finished sentence in any of the wordings."""
        return fill(self.draw(rng)[1], slots)


def fill(template: str, slots: Mapping[str, str]) -> str:
    """Fill the slots, write "an" where it belongs and start with a capital letter.

    Raises:
        DataError: the template asks for a slot that is not known.
    """
    try:
        text = template.format_map(slots)
    except KeyError as error:
        known = ", ".join(sorted(slots))
        raise DataError(f"template {template!r} has unknown slot {error}; known: {known}") from None
    text = _ARTICLE.sub(r"\1n ", text)
    start = 1 if text[0] == '"' else 0
    return text[:start] + text[start].upper() + text[start + 1 :]


def is_held_out(name: str, place: str, wording: str) -> bool:
    """Whether name x place x wording is kept for the tests; never depends on the seed."""
    digest = hashlib.blake2b(f"{name}|{place}|{wording}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % HELD_OUT_ONE_IN == 0
