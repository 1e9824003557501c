"""The people, places, animals and things of StoryWorld, and the facts about them.

The world is always the same; a seed only decides which documents are written about it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

FEMALE_NAMES = tuple(
    "Anna Bella Clara Daisy Emma Fiona Grace Iris Julia Kate Maria Olivia Paula Rosa Susan Tina "
    "Vera Wendy Zoe Molly".split()
)
MALE_NAMES = tuple(
    "Adam Ben Carlos David Edgar Frank George Henry Ivan Jack Kevin Leo Martin Nico Oscar Peter "
    "Robert Thomas Victor Hugo".split()
)
NAMES = tuple(sorted(FEMALE_NAMES + MALE_NAMES))

TOWNS = tuple(
    "Ashby Oakford Milton Riverdale Greenhill Stonebridge Westport Kingston Redwood Harwick "
    "Dunmore Langley Appleton Brighton Seaview Maplewood".split()
)
PLACES = tuple(
    "park market lake river beach farm school station library bakery museum mill harbor castle "
    "hill bridge hospital church theater square zoo".split()
)
TOWN_BUILDINGS = tuple(
    "market school station library bakery museum mill church theater hospital".split()
)

PETS = tuple("dog cat rabbit goat parrot hen pony turtle mouse duck sheep pig".split())
FOODS = tuple("soup bread cheese honey rice apples pears plums cake fish eggs carrots".split())
JOBS = tuple("baker teacher doctor farmer sailor painter tailor driver nurse singer".split())

HABITATS = {
    "bear": "forest", "fox": "forest", "owl": "forest", "deer": "forest", "wolf": "forest",
    "frog": "lake", "duck": "lake", "swan": "lake", "whale": "sea", "crab": "sea", "seal": "sea",
    "lion": "zoo", "camel": "zoo", "monkey": "zoo", "cow": "farm", "horse": "farm", "pig": "farm",
    "goat": "farm", "sheep": "farm", "hen": "farm", "bee": "garden", "rabbit": "field",
    "mouse": "field", "parrot": "zoo",
}  # fmt: skip
DIETS = {
    "bear": "honey", "fox": "mice", "owl": "mice", "deer": "leaves", "wolf": "sheep",
    "frog": "worms", "duck": "worms", "swan": "plants", "whale": "fish", "crab": "worms",
    "seal": "fish", "lion": "meat", "camel": "plants", "monkey": "plums", "cow": "grass",
    "horse": "grass", "pig": "potatoes", "goat": "grass", "sheep": "grass", "hen": "seeds",
    "bee": "honey", "rabbit": "carrots", "mouse": "cheese", "parrot": "seeds",
}  # fmt: skip

THINGS = {
    "umbrella": "hall", "hat": "hall", "coat": "hall", "scarf": "hall", "basket": "hall",
    "purse": "hall", "cup": "kitchen", "plate": "kitchen", "bottle": "kitchen", "bowl": "kitchen",
    "pan": "kitchen", "stove": "kitchen", "oven": "kitchen", "lamp": "room", "clock": "room",
    "bed": "room", "book": "room", "vase": "room", "carpet": "room", "table": "room",
    "kite": "shed", "bicycle": "shed", "rod": "shed", "board": "shed", "wheel": "shed",
    "ball": "yard", "bench": "yard", "gate": "yard", "fence": "yard", "stone": "yard",
    "key": "pocket", "ticket": "pocket", "ring": "pocket", "coin": "pocket", "letter": "bag",
    "stamp": "bag", "map": "bag", "battery": "bag", "newspaper": "bag", "card": "bag",
}  # fmt: skip
MATERIALS = {
    "kite": "paper", "book": "paper", "letter": "paper", "stamp": "paper", "map": "paper",
    "ticket": "paper", "newspaper": "paper", "card": "paper", "cup": "glass", "bottle": "glass",
    "lamp": "glass", "vase": "glass", "window": "glass", "coat": "wool", "scarf": "wool",
    "carpet": "wool", "hat": "wool", "bench": "wood", "table": "wood", "bed": "wood",
    "gate": "wood", "fence": "wood", "board": "wood", "rod": "wood", "wall": "stone",
    "bridge": "stone", "castle": "stone", "church": "stone", "ring": "gold", "coin": "gold",
}  # fmt: skip
COLORS = tuple("red blue green yellow white black brown gray".split())


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody of the world. `town`, `pet`, `food`, `job` are facts only the text corpus tells."""

    name: str
    female: bool
    town: str
    pet: str
    food: str
    job: str
    asked: bool
    """Whether the evaluation asks about this person; the corpus then never does."""

    @property
    def slots(self) -> dict[str, str]:
        """Values for the template slots {N}, {he}, {his}, {him} and their capital forms."""
        he, his, him = ("she", "her", "her") if self.female else ("he", "his", "him")
        return {
            "N": self.name,
            "he": he,
            "his": his,
            "him": him,
            "He": he.title(),
            "His": his.title(),
        }


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything there is: people, and what is next to what in each town."""

    people: tuple[Person, ...]
    neighbors: dict[tuple[str, str], str]
    """(town, building) -> the building beside it."""
    landmarks: dict[str, tuple[str, str]]
    """town -> (the water or hill it lies at, the food it is known for)."""

    @property
    def num_entities(self) -> int:
        """People and their pets, towns and their buildings, places, animals and things."""
        things = set(THINGS) | set(MATERIALS) | set(FOODS)
        animals = set(HABITATS) | set(PETS)
        people = 2 * len(self.people)
        places = len(TOWNS) + len(PLACES) + len(self.neighbors)
        return people + places + len(animals) + len(things)


def spread(rng: random.Random, values: Sequence[Item], count: int) -> list[Item]:
    """`count` values in random order, each used as often as the others (within one)."""
    repeated = [values[i % len(values)] for i in range(count)]
    rng.shuffle(repeated)
    return repeated


def make_world() -> World:
    """The one StoryWorld; every call returns the same."""
    rng = random.Random(2411_17607)
    count = len(NAMES)
    towns, pets = spread(rng, TOWNS, count), spread(rng, PETS, count)
    foods, jobs = spread(rng, FOODS, count), spread(rng, JOBS, count)
    asked = spread(rng, (True, True, True, False), count)
    people = tuple(
        Person(
            name=name,
            female=name in FEMALE_NAMES,
            town=towns[i],
            pet=pets[i],
            food=foods[i],
            job=jobs[i],
            asked=asked[i],
        )
        for i, name in enumerate(NAMES)
    )
    neighbors = {}
    for town in TOWNS:
        shift = 1 + rng.randrange(len(TOWN_BUILDINGS) - 1)
        for i, building in enumerate(TOWN_BUILDINGS):
            neighbors[town, building] = TOWN_BUILDINGS[(i + shift) % len(TOWN_BUILDINGS)]
    waters = spread(rng, ("river", "lake", "sea", "hill"), len(TOWNS))
    known_for = spread(rng, FOODS, len(TOWNS))
    landmarks = {town: (waters[i], known_for[i]) for i, town in enumerate(TOWNS)}
    return World(people=people, neighbors=neighbors, landmarks=landmarks)
