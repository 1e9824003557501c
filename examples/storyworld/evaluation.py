"""Evaluation items: two kinds of story cloze, and closed-book questions."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from examples.storyworld.encyclopedia import RELATIONS
from examples.storyworld.stories import Story, all_scenarios, held_out_story, story_slots
from examples.storyworld.templates import fill, pick
from examples.storyworld.world import World

TOPIC_CANDIDATES = 6
"""Endings of other scenarios to choose from; the one nearest in length becomes the wrong one."""


@dataclass(frozen=True, kw_only=True)
class ClozeItem:
    """A story without its ending, the right ending and a wrong one."""

    id: str
    task: str
    """`topic`: the wrong ending is another scenario's. `story`: it is the other branch's."""
    context: tuple[str, ...]
    right: str
    wrong: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """A closed-book question; any of the answers, found in the reply, is right."""

    id: str
    question: str
    answers: tuple[str, ...]


def other_branch_ending(rng: random.Random, story: Story) -> str:
    """The same ending turned round: consistent in topic, wrong in meaning."""
    endings = story.scenario.endings[1 - story.branch]
    template = pick(rng, endings.variations[story.ending_index])
    return fill(template, story_slots(story.person, story.place))


def other_scenario_ending(rng: random.Random, story: Story) -> str:
    """An ending of another scenario about the same person, of nearly the same length."""
    others = [scenario for scenario in all_scenarios() if scenario is not story.scenario]
    slots = story_slots(story.person, story.place)
    candidates = []
    for _ in range(TOPIC_CANDIDATES):
        _, template = pick(rng, pick(rng, others).endings).draw(rng)
        candidates.append(fill(template, slots))
    length = len(story.ending.split())
    return min(candidates, key=lambda ending: abs(len(ending.split()) - length))


def cloze_items(rng: random.Random, world: World, count: int) -> list[ClozeItem]:
    """`count` items of each task, on the same held-out stories; no two share a story."""
    items: list[ClozeItem] = []
    seen: set[tuple[str, ...]] = set()
    scenarios = all_scenarios()
    while len(seen) < count:
        story = held_out_story(rng, world, scenarios)
        if story.sentences in seen:
            continue
        number = len(seen)
        seen.add(story.sentences)
        wrong = {
            "topic": other_scenario_ending(rng, story),
            "story": other_branch_ending(rng, story),
        }
        items += [
            ClozeItem(
                id=f"{task}-{number:04d}",
                task=task,
                context=story.context,
                right=story.ending,
                wrong=ending,
            )
            for task, ending in wrong.items()
        ]
    return sorted(items, key=lambda item: (item.task != "topic", item.id))


def questions(world: World) -> list[Question]:
    """Every fact about the people the corpus never asks about, in each wording of the question."""
    found = []
    for person in world.people:
        for relation in RELATIONS if person.asked else ():
            value = getattr(person, relation.field)
            for number, (template, *_) in enumerate(relation.questions.variations):
                found.append(
                    Question(
                        id=f"qa-{person.name.lower()}-{relation.field}-{number}",
                        question=fill(template, person.slots),
                        answers=(value,),
                    )
                )
    return found


def distinct_sentences(items: Sequence[ClozeItem], asked: Iterable[Question]) -> list[str]:
    """Every sentence of the evaluation once, in order of first use."""
    sentences = [text for item in items for text in (*item.context, item.right, item.wrong)]
    return list(dict.fromkeys([*sentences, *(question.question for question in asked)]))
