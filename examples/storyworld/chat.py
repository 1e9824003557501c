"""Write StoryWorld dialogues: to fine-tune a chat model on, and held-out ones to measure it.

    python examples/storyworld/chat.py --output-dir runs/storyworld/chat --dialogues 6000

`train.jsonl` holds dialogues as messages, `eval.jsonl` questions with the answers that count,
`utterances.parquet` the spoken questions of the evaluation. All words are those of the corpus. The
user tells the beginning of a story and asks how it ended, where it was, or who it was about; or
asks for a fact, or makes small talk. Stories of the evaluation are held-out combinations, and its
facts are of people whom no dialogue asks about: they must come from pre-training.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: find this package and its neighbours
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_speech.jobs.starting import starting

with starting(__name__):
    import json
    import random
    from collections.abc import Callable, Sequence
    from dataclasses import asdict, dataclass
    from typing import Any

    from examples.storyworld.dialogues import EXCHANGES, exchange_slots
    from examples.storyworld.encyclopedia import RELATIONS
    from examples.storyworld.outputs import write_table
    from examples.storyworld.stories import (
        PLACE_NAMES,
        Story,
        all_scenarios,
        held_out_story,
        story_slots,
        training_story,
    )
    from examples.storyworld.templates import Wordings, fill, pick
    from examples.storyworld.world import NAMES, Person, World, make_world
    from megatron_speech import cli
    from megatron_speech.errors import ConfigError
    from megatron_speech.io.files import write_text

MOST_SENTENCES = 3
"""Of a story's beginning: the answer must follow within the window of a small model."""
SMALL_TALK_SHARE = 0.15
FACT_SHARE = 0.15
FOLLOW_UP_SHARE = 0.5
"""Stories of which a second question is asked, in a turn of its own."""

ASKED = {
    "ending": Wordings.of("What was the end?", "What was the end of the story?"),
    "where": Wordings.of("Where was it?", "Where was {N}?"),
    "who": Wordings.of("Which of the people was it?"),
}
ANSWERED = {
    "where": Wordings.of("It was {at}."),
    "who": Wordings.of("It was {N}."),
}


@dataclass(frozen=True, kw_only=True)
class ChatItem:
    """A question that is asked aloud. With `wrong`, an answer nearer to one of `answers` is right;
    without, one that contains an answer. `chance` is the share that guessing would get (of the
    replies that choose, where there are wrong answers)."""

    id: str
    kind: str
    turns: tuple[str, ...]
    """What the user says; the reply to the last turn counts."""
    answers: tuple[str, ...]
    wrong: tuple[str, ...]
    chance: float


@dataclass(frozen=True, kw_only=True)
class ChatDataConfig:
    """Settings of the dialogues."""

    output_dir: Path
    """Folder to write into."""
    dialogues: int = 6_000
    """Dialogues to train on."""
    items: int = 100
    """Questions of each kind to evaluate with."""
    seed: int = 1
    """The same seed gives the same bytes."""

    def __post_init__(self) -> None:
        if self.dialogues < 1 or self.items < 1:
            raise ConfigError("--dialogues and --items must be at least 1")


def say(story: Story, kind: str, rng: random.Random) -> tuple[str, str]:
    """A question of `kind` about a story, and its answer."""
    slots = story_slots(story.person, story.place)
    answer = story.ending if kind == "ending" else ANSWERED[kind].say(rng, slots)
    return ASKED[kind].say(rng, slots), answer


def short(tell: Callable[[], Story]) -> Story:
    """A story whose beginning has few sentences."""
    while len((story := tell()).context) > MOST_SENTENCES:
        pass
    return story


def story_dialogue(rng: random.Random, world: World) -> list[str]:
    """The user tells a story and asks about it, once or twice."""
    story = short(lambda: training_story(rng, world, even=True))
    kinds = list(ASKED)
    first = pick(rng, kinds)
    question, answer = say(story, first, rng)
    turns = [" ".join((*story.context, question)), answer]
    if rng.random() < FOLLOW_UP_SHARE:
        turns += say(story, pick(rng, [kind for kind in kinds if kind != first]), rng)
    return turns


def fact_exchange(rng: random.Random, person: Person) -> list[str]:
    """A question about a person, and the answer."""
    relation = pick(rng, RELATIONS)
    slots = {**person.slots, "V": getattr(person, relation.field)}
    return [relation.questions.say(rng, slots), relation.answers.say(rng, slots)]


def training_dialogue(rng: random.Random, world: World) -> list[str]:
    """Turns of one dialogue, the user's first."""
    draw = rng.random()
    if draw < SMALL_TALK_SHARE:
        question, answer = pick(rng, EXCHANGES)
        slots = exchange_slots(rng)
        return [question.say(rng, slots), answer.say(rng, slots)]
    if draw < SMALL_TALK_SHARE + FACT_SHARE:
        people = [person for person in world.people if not person.asked]
        return [turn for _ in range(2) for turn in fact_exchange(rng, pick(rng, people))]
    return story_dialogue(rng, world)


def story_items(rng: random.Random, world: World, count: int) -> list[ChatItem]:
    """Questions about held-out stories, `count` of each kind, and as many in a second turn."""
    items = []
    for number in range(count):
        story = short(lambda: held_out_story(rng, world, all_scenarios()))
        told = " ".join(story.context)
        for kind in ASKED:
            question, _ = say(story, kind, rng)
            items.append(story_item(f"{kind}-{number:04d}", kind, story, (f"{told} {question}",)))
        first, second = say(story, "ending", rng)[0], pick(rng, ("where", "who"))
        turns = (f"{told} {first}", say(story, second, rng)[0])
        items.append(story_item(f"later-{number:04d}", second, story, turns, name="later"))
    return sorted(items, key=lambda item: item.kind)


def story_item(
    item: str, kind: str, story: Story, turns: tuple[str, ...], name: str | None = None
) -> ChatItem:
    """The answers that count, by kind of question."""
    answers, wrong, chance = (story.person.name,), (), 1 / len(NAMES)
    if kind == "where":
        answers, chance = (story.place,), 1 / len(PLACE_NAMES)
    if kind == "ending":
        answers, wrong = (endings(story, branch) for branch in (story.branch, 1 - story.branch))
        chance = 0.5
    return ChatItem(
        id=item, kind=name or kind, turns=turns, answers=answers, wrong=wrong, chance=chance
    )


def endings(story: Story, branch: int) -> tuple[str, ...]:
    """Every ending of one of the two branches, about this story's person and place."""
    slots = story_slots(story.person, story.place)
    wordings = story.scenario.endings[branch].variations
    return tuple(fill(text, slots) for variations in wordings for text in variations)


def fact_items(rng: random.Random, world: World, count: int) -> list[ChatItem]:
    """Closed-book questions about people whom no dialogue asks about."""
    items = []
    asked = [(p, relation) for p in world.people if p.asked for relation in RELATIONS]
    rng.shuffle(asked)
    for number, (person, relation) in enumerate(asked[:count]):
        values = {getattr(other, relation.field) for other in world.people}
        items.append(
            ChatItem(
                id=f"fact-{number:04d}",
                kind="fact",
                turns=(relation.questions.say(rng, person.slots),),
                answers=(getattr(person, relation.field),),
                wrong=(),
                chance=1 / len(values),
            )
        )
    return items


def as_messages(turns: Sequence[str]) -> dict[str, Any]:
    """A dialogue in the usual format."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns)]}


def main(argv: Sequence[str] | None = None) -> dict[str, int]:
    """Write the three files; returns how much they hold."""
    config = cli.parse(ChatDataConfig, argv, __doc__)
    world, folder = make_world(), config.output_dir
    rng = random.Random(f"{config.seed}/chat")
    dialogues = [training_dialogue(rng, world) for _ in range(config.dialogues)]
    rng = random.Random(f"{config.seed}/chat evaluation")
    items = [*story_items(rng, world, config.items), *fact_items(rng, world, config.items)]
    lines = [
        json.dumps({"id": f"chat-{number:06d}", **as_messages(turns)})
        for number, turns in enumerate(dialogues)
    ]
    write_text(folder / "train.jsonl", "\n".join(lines) + "\n")
    write_text(folder / "eval.jsonl", "".join(json.dumps(asdict(i)) + "\n" for i in items))
    texts = list(dict.fromkeys(turn for item in items for turn in item.turns))
    ids = [f"question-{number:05d}" for number in range(len(texts))]
    write_table(folder / "utterances.parquet", {"id": ids, "text": texts})
    counts = {"dialogues": len(dialogues), "items": len(items), "utterances": len(texts)}
    print(f"StoryWorld chat: {counts}")
    return counts


if __name__ == "__main__":
    cli.run(main, starts_over=True)
