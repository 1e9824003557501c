"""Cloze items from documents of any kind and language.

An item is consecutive sentences of a document, the sentence that follows, and a wrong one about as
long: of another document (`topic`), or of the same one further on (`story`). No sentence serves
twice, so that each can be spoken by the voice of its item and no voice tells the answer.
"""

import random
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..errors import ConfigError
from ..text.sentences import sentence_spans
from ..text.speakable import Content
from .items import ClozeItem

Task = Literal["topic", "story"]
_STORY_DISTANCE = 5
"""Sentences between the right ending and a wrong one of the same document, at least."""
_UNPUNCTUATED = ("th", "lo")
_CLOSING, _NO_ENDS = "\"'”’»)]」』》", ",;:，；：、،؛"
_TRIED = 64


@dataclass(frozen=True, kw_only=True)
class ItemConfig:
    """What makes an item."""

    tasks: tuple[Task, ...] = ("topic", "story")
    """Where the wrong ending comes from: another document, or the same one further on."""
    name: str = "text"
    """Tasks are called <name>-topic and <name>-story, to stand apart from other sets."""
    items: int = 500
    """Items of each task, fewer where the documents give no more."""
    context_sentences: int = 3
    """Sentences before the ending."""
    min_length: int = 20
    """Least characters of a sentence; Chinese, Japanese and Korean ones count three."""
    max_length: int = 200
    """Most characters of a sentence; twelve to fourteen a second are spoken."""
    length_tolerance: float = 0.1
    """By how much a wrong ending may be longer or shorter than the right one, as a share."""
    seed: int = 1
    """Decides documents, places and wrong endings."""

    def __post_init__(self) -> None:
        for name in ("items", "context_sentences", "min_length"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; give at least 1"
                )
        if self.max_length < self.min_length:
            raise ConfigError(
                f"--max-length {self.max_length} is below --min-length {self.min_length}"
            )
        if not 0 <= self.length_tolerance < 1:
            raise ConfigError(
                f"--length-tolerance is {self.length_tolerance}; give a share from 0 to below 1"
            )
        if not self.tasks or len(set(self.tasks)) < len(self.tasks) or not self.name:
            raise ConfigError("--tasks needs topic, story or both, --name a name")


@dataclass(frozen=True)
class Sentence:
    """A sentence that may be used, and where it stands."""

    text: str
    document: int
    place: int
    """Number among all sentences of its document, the unusable counted."""
    length: int


@dataclass
class Made:
    """Items, the texts to be spoken for them, and counts for the report."""

    items: list[ClozeItem] = field(default_factory=list)
    texts: list[dict[str, str]] = field(default_factory=list)
    """Ids and texts; ids of an item's sentences begin with its own."""


def usable_sentences(
    text: str, document: int, language: str, config: ItemConfig, refused: Counter[str]
) -> Iterator[Sentence]:
    """Sentences of a document that can be spoken and are neither fragment nor too long."""
    spans = sentence_spans(text, language)
    speakable = Content(text).speakable(spans)
    for place, ((start, stop), said) in enumerate(zip(spans.tolist(), speakable, strict=True)):
        sentence = " ".join(text[start:stop].split()).lstrip("-–— ")
        length = spoken_length(sentence)
        reason = None
        if not said:
            reason = "unspeakable"
        elif not _is_whole(sentence, language):
            reason = "fragment"
        elif not config.min_length <= length <= config.max_length:
            reason = "length"
        if reason is None:
            yield Sentence(sentence, document, place, length)
        else:
            refused[reason] += 1


def spoken_length(sentence: str) -> int:
    """Characters, of which one that stands for a syllable or more counts three."""
    wide = sum(unicodedata.east_asian_width(character) == "W" for character in sentence)
    return len(sentence) + 2 * wide


def _is_whole(sentence: str, language: str) -> bool:
    """Has letters, does not begin small, as a mistaken cut does, and ends as sentences end."""
    letters = next((c for c in sentence if c.isalpha()), None)
    if letters is None or letters.islower():
        return False
    last = sentence.rstrip(_CLOSING)[-1:]
    ends = last not in _NO_ENDS and unicodedata.category(last or " ") == "Po"
    return ends or language in _UNPUNCTUATED


def make_items(sentences: Sequence[Sentence], config: ItemConfig) -> Made:
    """Items from the usable sentences of all documents; which ones is decided by the seed."""
    chance = random.Random(config.seed)
    pool = _Pool(sentences, config, chance)
    made = Made()
    wanted: dict[Task, int] = dict.fromkeys(config.tasks, config.items)
    for number, place in enumerate(_places(sentences, config.context_sentences, chance)):
        if not any(wanted.values()):
            break
        if not pool.free(place):
            continue
        found: dict[Task, Sentence] = {}
        for task, left in wanted.items():
            if left and (wrong := pool.wrong(task, place)) is not None:
                found[task] = wrong
        if not found:
            continue
        pool.take([*place, *found.values()])
        *context, right = place
        for task, wrong in found.items():
            wanted[task] -= 1
            made.items.append(
                ClozeItem(
                    id=f"{config.name}-{task}-{number:05d}",
                    task=f"{config.name}-{task}",
                    context=tuple(sentence.text for sentence in context),
                    right=right.text,
                    wrong=wrong.text,
                )
            )
        made.texts += [
            {"id": f"{config.name}-{number:05d}/{n:03d}", "text": sentence.text}
            for n, sentence in enumerate([*place, *found.values()])
        ]
    return made


def _places(
    sentences: Sequence[Sentence], context: int, chance: random.Random
) -> Iterator[list[Sentence]]:
    """Runs of consecutive sentences that do not overlap; documents take turns."""
    by_document: dict[int, list[list[Sentence]]] = {}
    run: list[Sentence] = []
    for sentence in sentences:
        if run and (sentence.document, sentence.place - 1) != (run[-1].document, run[-1].place):
            run = []
        run.append(sentence)
        if len(run) == context + 1:
            by_document.setdefault(sentence.document, []).append(run)
            run = []
    for places in by_document.values():
        chance.shuffle(places)
    turns = list(by_document.values())
    chance.shuffle(turns)
    for turn in range(max(map(len, turns), default=0)):
        yield from (places[turn] for places in turns if turn < len(places))


class _Pool:
    """Sentences that no item has yet, by length."""

    def __init__(self, sentences: Sequence[Sentence], config: ItemConfig, chance: random.Random):
        self._by_length = sorted(sentences, key=lambda sentence: sentence.length)
        self._lengths = [sentence.length for sentence in self._by_length]
        self._by_document: dict[int, list[Sentence]] = {}
        for sentence in sentences:
            self._by_document.setdefault(sentence.document, []).append(sentence)
        self._tolerance, self._chance = config.length_tolerance, chance
        self._used: set[str] = set()

    def free(self, place: Sequence[Sentence]) -> bool:
        return self._used.isdisjoint(sentence.text for sentence in place)

    def take(self, sentences: Sequence[Sentence]) -> None:
        self._used.update(sentence.text for sentence in sentences)

    def wrong(self, task: Task, place: Sequence[Sentence]) -> Sentence | None:
        """A wrong ending of about the right one's length, None if none is found."""
        right = place[-1]
        slack = self._tolerance * right.length
        if task == "story":
            others = [
                other
                for other in self._by_document[right.document]
                if other.place >= right.place + _STORY_DISTANCE
                and abs(other.length - right.length) <= slack
            ]
        else:
            low = bisect_left(self._lengths, right.length - slack)
            high = bisect_right(self._lengths, right.length + slack)
            chosen = self._chance.sample(range(low, high), min(_TRIED, high - low))
            others = [self._by_length[n] for n in chosen]
            others = [other for other in others if other.document != right.document]
        fitting = [other for other in others if other.text not in self._used]
        return self._chance.choice(fitting) if fitting else None


def without_repeated(sentences: Sequence[Sentence]) -> list[Sentence]:
    """Sentences that stand in one place alone: of a repeated one, no place is the right one."""
    counts = Counter(sentence.text.casefold() for sentence in sentences)
    return [sentence for sentence in sentences if counts[sentence.text.casefold()] == 1]
