"""What a reader under test is: valid files, damage to a copy of them, and what has to hold."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Found:
    """What a reader made of some files."""

    items: list[tuple[str, Any]]
    """Id and contents of each."""
    set_aside: list[str] = field(default_factory=list)
    """Ids of the items set aside."""


@dataclass
class Expected:
    """What is known of damaged files without the reader."""

    there: int | None = None
    """How many items they hold, sound or not."""
    intact: dict[str, Any] = field(default_factory=dict)
    """Contents of items that no damage touched, by id."""


def nothing_known(sample: Path, damaged: Path) -> Expected:
    return Expected()


@dataclass(frozen=True)
class Reader:
    """One reader of files.

    `read` returns what it found or raises `MegatronSpeechError`; a property of its own that does
    not hold is an AssertionError.
    """

    name: str
    make: Callable[[Path], None]
    """Writes valid files into an empty folder."""
    damage: Callable[[random.Random, Path], None]
    """Changes a copy of that folder."""
    read: Callable[[Path], Found]
    expect: Callable[[Path, Path], Expected] = nothing_known
    """Of the valid and the damaged folder."""
    spares_the_rest: bool = False
    """A damaged item never costs the intact ones: the whole may not be refused while there are
    some."""

    def complaints(self, sample: Path, damaged: Path, found: Found | None) -> list[str]:
        """What is wrong with a result; `found` is None where all was refused."""
        expected = self.expect(sample, damaged)
        if found is None:
            refused = f"all was refused, but {len(expected.intact)} items are intact"
            return [refused] if expected.intact and self.spares_the_rest else []
        bad = []
        count = len(found.items) + len(found.set_aside)
        if expected.there is not None and count != expected.there:
            bad.append(
                f"{len(found.items)} items and {len(found.set_aside)} set aside are not the "
                f"{expected.there} that there are"
            )
        items = dict(found.items)
        for name, value in expected.intact.items():
            # of two of one id the first is used, or whoever uses them decides
            if name in found.set_aside or (name, value) in found.items:
                continue
            if name in items:
                bad.append(f"intact item {name!r} came out as {items[name]!r}"[:300])
            else:
                bad.append(f"intact item {name!r} is neither among the items nor set aside")
        return bad
