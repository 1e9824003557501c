"""Dialogues: small talk without facts, and questions about people for the text corpus only."""

import random

from examples.storyworld.encyclopedia import RELATIONS
from examples.storyworld.stories import PLACE_PHRASES
from examples.storyworld.templates import Wordings, pick
from examples.storyworld.world import (
    COLORS,
    FOODS,
    JOBS,
    PETS,
    PLACES,
    THINGS,
    TOWNS,
    Person,
    World,
)

ASKED = Wordings.of('"{Q}" asked {N}.', '"{Q}" {N} asked.')
ANSWERED = Wordings.of('"{Q}" said {N}.', '"{Q}" {N} answered.', '"{Q}" {N} said.')
GREETINGS = Wordings.of('"[Hello|Good morning]," said {N}.', '{N} said, "[Hello|Good morning]."')
FAREWELLS = Wordings.of('"Thank you," said {N}.', '{N} said, "See you [soon|then]."')

EXCHANGES = (
    (
        Wordings.of("Have you seen the {thing}?", "Where is the {color} {thing}?"),
        Wordings.of(
            "It is in the {room}.", "I left it in the {room}.", "You put it in the {room}."
        ),
    ),
    (
        Wordings.of("Where are you going?", "What do you want to do [now|today]?"),
        Wordings.of("I am going {to}.", "I want to go {to} with my {kin}."),
    ),
    (
        Wordings.of("Where does your {kin} live?", "In which town does your {kin} live?"),
        Wordings.of(
            "My {kin} lives in {town}.", "In {town}.", "The home of my {kin} is in {town}."
        ),
    ),
    (
        Wordings.of("What does your {kin} like to eat?", "Which food does your {kin} like?"),
        Wordings.of("My {kin} likes {food}.", "The best food for my {kin} is {food}."),
    ),
    (
        Wordings.of("Which animal does your {kin} keep?", "Does your {kin} have a pet?"),
        Wordings.of("My {kin} keeps a {pet}.", "My {kin} has a {pet}.", "A {color} {pet}."),
    ),
    (
        Wordings.of("What is the work of your {kin}?", "What does your {kin} work as?"),
        Wordings.of("My {kin} is a {job}.", "My {kin} works as a {job}.", "A {job}, by day."),
    ),
    (
        Wordings.of("Do you have [any|some] {food}?", "Can I buy {food} here?"),
        Wordings.of("Yes, but not much.", "Yes, {number} coins, please.", "No, it is all gone."),
    ),
    (
        Wordings.of("What did you do {at}?", "How was your day {at}?"),
        Wordings.of("I saw a {color} {pet}.", "I lost the {thing}.", "I [met|saw] my {kin} there."),
    ),
    (
        Wordings.of("Can you help me with the {thing}?", "Do you have a {thing} for me?"),
        Wordings.of("Yes, take the {color} one.", "No, but my {kin} can.", "Yes, I can help you."),
    ),
)
KIN = tuple("aunt uncle brother sister cousin grandfather grandmother friend neighbor".split())
ROOMS = tuple(sorted(set(THINGS.values())))
NUMBERS = tuple("two three four five six seven eight nine ten".split())


def exchange_slots(rng: random.Random) -> dict[str, str]:
    """Values for what the exchanges leave open."""
    at, to = PLACE_PHRASES[pick(rng, PLACES)]
    return {
        "thing": pick(rng, tuple(THINGS)),
        "room": pick(rng, ROOMS),
        "color": pick(rng, COLORS),
        "kin": pick(rng, KIN),
        "town": pick(rng, TOWNS),
        "food": pick(rng, FOODS),
        "pet": pick(rng, PETS),
        "job": pick(rng, JOBS),
        "number": pick(rng, NUMBERS),
        "at": at,
        "to": to,
    }


def small_talk(rng: random.Random, world: World) -> tuple[str, ...]:
    """Two people talk about nothing the evaluation asks for; safe for speech training texts."""
    asker, other = _two_people(rng, world)
    slots = exchange_slots(rng)
    sentences = [GREETINGS.say(rng, other.slots)] if rng.random() < 0.5 else []
    for _ in range(1 + int(rng.random() * 2)):
        question, answer = pick(rng, EXCHANGES)
        sentences += _turns(rng, (asker, question.say(rng, slots)), (other, answer.say(rng, slots)))
    if rng.random() < 0.5:
        sentences.append(FAREWELLS.say(rng, asker.slots))
    return tuple(sentences)


def _two_people(rng: random.Random, world: World) -> tuple[Person, Person]:
    """Two different people."""
    first = pick(rng, world.people)
    while (second := pick(rng, world.people)) is first:
        pass
    return first, second


def _turns(
    rng: random.Random, asking: tuple[Person, str], answering: tuple[Person, str]
) -> tuple[str, str]:
    """A question and its answer with who said them."""
    asker, question = asking
    other, answer = answering
    if answer.endswith("."):
        answer = answer[:-1] + ","
    return (
        ASKED.say(rng, {"N": asker.name, "Q": question}),
        ANSWERED.say(rng, {"N": other.name, "Q": answer}),
    )


def fact_questions(rng: random.Random, world: World) -> tuple[str, ...]:
    """Questions and answers about people whom the evaluation does not ask about."""
    people = [person for person in world.people if not person.asked]
    sentences: list[str] = []
    quoted = rng.random() < 0.3
    for _ in range(2):
        person, relation = pick(rng, people), pick(rng, RELATIONS)
        slots = {**person.slots, "V": getattr(person, relation.field)}
        question = relation.questions.say(rng, slots)
        answer = relation.answers.say(rng, slots)
        if quoted:
            asker, other = _two_people(rng, world)
            sentences += _turns(rng, (asker, question), (other, answer))
        else:
            sentences += [question, answer]
    return tuple(sentences)
