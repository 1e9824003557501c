"""Which items of a benchmark occur in training text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...jobs.progress import Progress
from ...text.corpora import Document, find_texts, read_pieces, split_inputs, total_bytes
from ..training_text import RUN, count_words, find_seen
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
    seen = find_seen(every, _read(against, text_key)) if every else None
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


def _read(inputs: Sequence[str], text_key: str) -> Iterable[str]:
    paths = find_texts(inputs)
    with Progress("training text", total_bytes(paths), "bytes") as progress:
        for piece in split_inputs(paths, 1)[0]:
            for record in read_pieces([piece], text_key):
                if isinstance(record, Document):
                    progress.advance(len(record.text))
                    yield record.text
