"""Which items of a benchmark occur in training text."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..training_text import RUN, count_words, find_seen, read_documents
from .items import Item, utterances_of

FEWEST_WORDS = 4
"""Shorter texts are found everywhere and say nothing."""
_SHOWN = 5


@dataclass(frozen=True)
class Contamination:
    """Items of one benchmark that occur in training text."""

    seen: frozenset[str]
    """Ids of them."""
    report: dict[str, Any]


def find_contaminated(
    benchmarks: dict[str, Sequence[Item]], against: Sequence[str], text_key: str
) -> dict[str, Contamination]:
    """Items of which a sentence stands in the training text whole, or shares eight words in a row.

    The training text is read once, whatever its size, for all benchmarks.

    Raises:
        DataError: training text that is missing or damaged.
    """
    texts = {name: {i.id: _texts_of(i) for i in items} for name, items in benchmarks.items()}
    every = sorted({text for items in texts.values() for found in items.values() for text in found})
    read = (document.text for document in read_documents(against, text_key, Counter()))
    seen = find_seen(every, read) if every else None
    found = {}
    for name, items in texts.items():
        compared = [key for key, said in items.items() if said]
        hit = [key for key in compared if seen and not seen.sentences.isdisjoint(items[key])]
        report = {
            "against": list(against),
            "training_documents": seen.documents if seen else 0,
            "items": len(items),
            "compared": len(compared),
            "seen": len(hit),
            "rule": f"a sentence of at least {FEWEST_WORDS} words whole, or {RUN} words in a row",
            "examples": [
                next(text for text in items[key] if text in seen.sentences)
                for key in hit[:_SHOWN]
                if seen
            ],
        }
        found[name] = Contamination(frozenset(hit), report)
    return found


def _texts_of(item: Item) -> list[str]:
    said = [u.text for u in utterances_of(item) if u.text]
    return [text for text in said if count_words(text) >= FEWEST_WORDS]
