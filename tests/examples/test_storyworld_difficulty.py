"""How hard the cloze tasks are for a reader of words alone: which words go together in stories."""

import math
import random
from collections import Counter
from collections.abc import Iterable

import pytest

from examples.storyworld.evaluation import ClozeItem, cloze_items
from examples.storyworld.stories import training_story
from examples.storyworld.world import make_world

STORIES, ITEMS = 20_000, 400


def words(sentences: Iterable[str]) -> set[str]:
    return {word.strip('.,"?').lower() for sentence in sentences for word in sentence.split()}


@pytest.fixture(scope="module")
def right() -> dict[str, float]:
    """Share of items of each task whose right ending has words likelier after the beginning's."""
    world, random_stories = make_world(), random.Random(0)
    before, after, both = Counter(), Counter(), Counter()
    for _ in range(STORIES):
        story = training_story(random_stories, world)
        context, ending = words(story.context), words([story.ending])
        before.update(context)
        after.update(ending)
        both.update((a, b) for a in context for b in ending)

    def likelier(context: set[str], ending: set[str]) -> float:
        """Mean over the ending's words of their mutual information with the beginning's."""
        found = [
            math.log((both[a, b] + 0.5) * STORIES / ((before[a] + 1) * (after[b] + 1)))
            for a in context
            for b in ending
        ]
        return sum(found) / len(ending)

    def is_right(item: ClozeItem) -> bool:
        context = words(item.context)
        return likelier(context, words([item.right])) > likelier(context, words([item.wrong]))

    verdicts: dict[str, list[bool]] = {}
    for item in cloze_items(random.Random(5), world, ITEMS):
        verdicts.setdefault(item.task, []).append(is_right(item))
    return {task: sum(found) / len(found) for task, found in verdicts.items()}


def test_contradictions_are_neither_beyond_words_nor_plain_from_them(right):
    assert 0.80 <= right["story"] <= 0.98


def test_other_topics_are_told_by_their_words(right):
    """Too easy as text: only hearing makes this task hard (docs/log.md)."""
    assert right["topic"] > 0.98
