"""Short stories: a scenario, a cause that decides between two branches, and its consequence.

The scenarios are text blocks in `scenarios/*.txt`. Each line of a block is one wording:

    ## umbrella                       name of the scenario
    * {N} went {to} on a gray day.    opening; says who and where
    1 {N} took an umbrella.           cause of the first branch
    2 {N} forgot the umbrella.        cause of the second branch
    - The street was empty.           neutral, may stand anywhere in between
    1> {N} came home dry.             consequence of the first branch
    2> {N} came home wet.             consequence of the second branch, the same thing turned round

To add a scenario, add a block.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from examples.storyworld.templates import Wordings, fill, is_held_out, pick, pick_index
from examples.storyworld.world import PLACES, TOWNS, Person, World
from megatron_speech.errors import DataError

SCENARIO_SKEW = 1.0
"""Later scenarios are rarer in the corpus."""
WORDING_SKEW = 2.0
"""Later wordings of a list are rarer in the corpus."""
FILLER_COUNTS = (0, 0, 0, 0, 0, 1, 1, 1, 1, 2)
"""Neutral sentences per story, drawn uniformly."""

PLACE_PHRASES = {
    **{place: (f"at the {place}", f"to the {place}") for place in PLACES},
    **{town: (f"in {town}", f"to {town}") for town in TOWNS},
}
PLACE_NAMES = tuple(PLACE_PHRASES)

FILLERS = Wordings.of(
    "A dog barked [far away|behind a house].",
    "A bell rang [far away|in the church].",
    "[Two|Three] children played with a ball.",
    "A woman with a [basket|purse] walked by.",
    "{N} thought about [dinner|the next day].",
    "A [red|blue] car stood in the street.",
    "{N} saw a [black|gray] cat on a wall.",
    "{N} hummed a [slow|sad] song.",
    "A [tailor|farmer] said good morning.",
    "An old woman told {him} a [story|joke].",
    "[Some|Many] birds sat on the roof.",
    "It was a [Monday|Sunday].",
)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What can happen. Index 0 of `causes` and `endings` is the first branch, 1 the second."""

    name: str
    openings: Wordings
    causes: tuple[Wordings, Wordings]
    middles: Wordings
    endings: tuple[Wordings, Wordings]


@dataclass(frozen=True, kw_only=True)
class Story:
    """One story told: what was chosen, the sentences before the ending, and the ending."""

    scenario: Scenario
    branch: int
    person: Person
    place: str
    wording: str
    """Identifies scenario, branch and wording of the cause."""
    ending_index: int
    context: tuple[str, ...]
    ending: str

    @property
    def sentences(self) -> tuple[str, ...]:
        """All sentences, the ending last."""
        return (*self.context, self.ending)

    @property
    def held_out(self) -> bool:
        """Whether this combination of name, place and wording is kept for the tests."""
        return is_held_out(self.person.name, self.place, self.wording)


def parse_scenario(block: str) -> Scenario:
    """Read one block of a scenario file.

    Raises:
        DataError: a line without a known mark, a part that is missing, or branches whose
            consequences do not come in pairs.
    """
    name, *lines = [line.strip() for line in block.strip().splitlines() if line.strip()]
    parts: dict[str, list[str]] = {mark: [] for mark in ("*", "1", "2", "-", "1>", "2>")}
    for line in lines:
        mark, _, template = line.partition(" ")
        if mark not in parts:
            raise DataError(
                f"scenario {name!r}: line {line!r} must start with one of {list(parts)}"
            )
        parts[mark].append(template)
    if not all(parts.values()) or len(parts["1>"]) != len(parts["2>"]):
        counts = {mark: len(templates) for mark, templates in parts.items()}
        raise DataError(f"scenario {name!r} needs every part, and 1> and 2> in pairs; has {counts}")
    return Scenario(
        name=name,
        openings=Wordings.of(*parts["*"]),
        causes=(Wordings.of(*parts["1"]), Wordings.of(*parts["2"])),
        middles=Wordings.of(*parts["-"]),
        endings=(Wordings.of(*parts["1>"]), Wordings.of(*parts["2>"])),
    )


@cache
def all_scenarios() -> tuple[Scenario, ...]:
    """Every scenario in the files beside this module, in a fixed order."""
    folder = Path(__file__).parent / "scenarios"
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt")))
    return tuple(parse_scenario(block) for block in text.split("## ")[1:])


def story_slots(person: Person, place: str) -> Mapping[str, str]:
    """Values of all slots a story may use."""
    at, to = PLACE_PHRASES[place]
    return {**person.slots, "at": at, "to": to}


def tell_story(
    rng: random.Random, world: World, scenario: Scenario, wording_skew: float = WORDING_SKEW
) -> Story:
    """One story of `scenario` with everything else drawn, held out or not."""
    person, place, branch = pick(rng, world.people), pick(rng, PLACE_NAMES), pick_index(rng, 2, 1)
    slots = story_slots(person, place)
    cause_index, cause = scenario.causes[branch].draw(rng, wording_skew)
    ending_index, ending = scenario.endings[branch].draw(rng, wording_skew)
    sentences = [scenario.openings.draw(rng, wording_skew)[1], cause]
    sources = [scenario.middles, FILLERS] if rng.random() < 0.7 else [FILLERS, scenario.middles]
    for source in sources[: pick(rng, FILLER_COUNTS)]:
        position = 1 if rng.random() < 0.5 else len(sentences)
        sentences.insert(position, source.draw(rng)[1])
    return Story(
        scenario=scenario,
        branch=branch,
        person=person,
        place=place,
        wording=f"{scenario.name}/{branch}/{cause_index}",
        ending_index=ending_index,
        context=tuple(fill(sentence, slots) for sentence in sentences),
        ending=fill(ending, slots),
    )


def training_story(rng: random.Random, world: World, *, even: bool = False) -> Story:
    """A story for a training set, none of the held-out combinations.

    Common scenarios and wordings come more often, or all equally often if `even`, as is better
    for speech: a rare word is learnt from few recordings otherwise.
    """
    scenarios = all_scenarios()
    while True:
        scenario = scenarios[pick_index(rng, len(scenarios), 1 if even else SCENARIO_SKEW)]
        story = tell_story(rng, world, scenario, 1 if even else WORDING_SKEW)
        if not story.held_out:
            return story


def held_out_story(rng: random.Random, world: World, scenarios: Sequence[Scenario]) -> Story:
    """A story for a test: a combination of name, place and wording no training text has.

    Scenarios are equally frequent; wordings are as frequent as in training.
    """
    scenario = pick(rng, scenarios)
    while True:
        story = tell_story(rng, world, scenario)
        if story.held_out:
            return story
