"""Encyclopedic documents: the world's facts in varied wordings. For the text corpus only."""

import random
from dataclasses import dataclass

from examples.storyworld.templates import Wordings, pick
from examples.storyworld.world import (
    COLORS,
    DIETS,
    HABITATS,
    MATERIALS,
    THINGS,
    TOWN_BUILDINGS,
    TOWNS,
    Person,
    World,
)


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A kind of fact about people: how it is stated, asked for and answered."""

    field: str
    """Attribute of `Person` that holds the value."""
    statements: Wordings
    questions: Wordings
    answers: Wordings


RELATIONS = (
    Relation(
        field="town",
        statements=Wordings.of(
            "{N} lives in {V}.",
            "{N} lives in the town of {V}.",
            "The home of {N} is in {V}.",
            "{N} has a house in {V}.",
            "In {V} lives {N}.",
        ),
        questions=Wordings.of("Where does {N} live?", "In which town does {N} live?"),
        answers=Wordings.of("{N} lives in {V}.", "In {V}."),
    ),
    Relation(
        field="pet",
        statements=Wordings.of(
            "{N} keeps a {V}.",
            "{N} has a {V} at home.",
            "The pet of {N} is a {V}.",
            "At home {N} keeps a {V} as a pet.",
        ),
        questions=Wordings.of("Which animal does {N} keep?", "What pet does {N} have?"),
        answers=Wordings.of("{N} keeps a {V}.", "A {V}."),
    ),
    Relation(
        field="food",
        statements=Wordings.of(
            "{N} likes {V}.",
            "{N} likes to eat {V}.",
            "{N} eats {V} every day.",
            "The best food for {N} is {V}.",
        ),
        questions=Wordings.of("What does {N} like to eat?", "Which food does {N} like?"),
        answers=Wordings.of("{N} likes {V}.", "{N} likes to eat {V}."),
    ),
    Relation(
        field="job",
        statements=Wordings.of(
            "{N} is a {V}.",
            "{N} works as a {V}.",
            "The work of {N} is that of a {V}.",
            "By day {N} works as a {V}.",
        ),
        questions=Wordings.of("What is the work of {N}?", "What does {N} work as?"),
        answers=Wordings.of("{N} is a {V}.", "{N} works as a {V}."),
    ),
)

TOWN_FACTS = Wordings.of(
    "{town} lies by the {water}.",
    "The town of {town} lies near the {water}.",
    "{town} is known for {food}.",
    "People in {town} make good {food}.",
)
BUILDING_FACTS = Wordings.of(
    "In {town} the {building} is next to the {neighbor}.",
    "The {building} of {town} stands beside the {neighbor}.",
    "Next to the {neighbor} in {town} is the {building}.",
)
ANIMAL_FACTS = Wordings.of(
    "A {animal} eats {diet}.",
    "The {animal} likes to eat {diet}.",
    "A {animal} lives at the {habitat}.",
    "You can see a {animal} at the {habitat}.",
)
THING_FACTS = Wordings.of(
    "You keep a {thing} in the {room}.",
    "The {color} {thing} is in the {room}.",
    "A {made} is made of {material}.",
    "You make a {made} from {material}.",
)


def state_fact(rng: random.Random, person: Person, relation: Relation) -> str:
    """One fact about a person in one of its wordings."""
    return relation.statements.say(rng, {**person.slots, "V": getattr(person, relation.field)})


def about_people(rng: random.Random, world: World) -> tuple[str, ...]:
    """All facts of one person, or one kind of fact for several, in random order."""
    if rng.random() < 0.6:
        person = pick(rng, world.people)
        facts = [state_fact(rng, person, relation) for relation in RELATIONS]
    else:
        relation = pick(rng, RELATIONS)
        facts = [state_fact(rng, pick(rng, world.people), relation) for _ in range(4)]
    rng.shuffle(facts)
    return tuple(facts)


def about_towns(rng: random.Random, world: World) -> tuple[str, ...]:
    """A town: where it lies, what it is known for, and what stands where."""
    town, building = pick(rng, TOWNS), pick(rng, TOWN_BUILDINGS)
    water, food = world.landmarks[town]
    slots = {
        "town": town,
        "water": water,
        "food": food,
        "building": building,
        "neighbor": world.neighbors[town, building],
    }
    other = pick(rng, TOWN_BUILDINGS)
    more = {**slots, "building": other, "neighbor": world.neighbors[town, other]}
    return (
        TOWN_FACTS.say(rng, slots),
        BUILDING_FACTS.say(rng, slots),
        BUILDING_FACTS.say(rng, more),
    )


def about_nature_and_things(rng: random.Random) -> tuple[str, ...]:
    """What animals eat, where they live, where things are kept and what they are made of."""
    sentences = []
    for _ in range(4):
        animal, thing = pick(rng, tuple(HABITATS)), pick(rng, tuple(THINGS))
        made = pick(rng, tuple(MATERIALS))
        slots = {
            "animal": animal,
            "habitat": HABITATS[animal],
            "diet": DIETS[animal],
            "thing": thing,
            "room": THINGS[thing],
            "color": pick(rng, COLORS),
            "made": made,
            "material": MATERIALS[made],
        }
        facts = ANIMAL_FACTS if rng.random() < 0.5 else THING_FACTS
        sentences.append(facts.say(rng, slots))
    return tuple(sentences)


def encyclopedia_entry(rng: random.Random, world: World) -> tuple[str, ...]:
    """One encyclopedic document; most are about people."""
    draw = rng.random()
    if draw < 0.7:
        return about_people(rng, world)
    return about_towns(rng, world) if draw < 0.85 else about_nature_and_things(rng)
