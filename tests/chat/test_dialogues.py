"""Which dialogues can be spoken, and how far."""

import pytest

from megatron_speech.chat.dialogues import (
    Dialogue,
    SpokenTurnsConfig,
    speakable_dialogue,
    spoken_form,
)
from megatron_speech.errors import ConfigError

CONFIG = SpokenTurnsConfig()


def read(*contents, roles=None, config=CONFIG):
    """The dialogue that is kept, None if none is, and the reasons, each with its id."""
    roles = roles or ["user", "assistant"] * len(contents)
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    found = list(speakable_dialogue("d", {"messages": messages}, config))
    kept = [item.turns for item in found if isinstance(item, Dialogue)]
    return (kept or [None])[0], [(r.id, r.reason) for r in found if not isinstance(r, Dialogue)]


def test_a_plain_dialogue_is_kept():
    assert read("Hello", "Good morning.") == (("Hello", "Good morning."), [])


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        (["assistant", "user"], "starts_with_assistant"),
        (["user", "user"], "not_alternating"),
        (["user", "tool"], "unknown_role"),
        (["user", None], "unknown_role"),
        (["system", "user"], "system_prompt"),
    ],
)
def test_wrong_roles_set_the_dialogue_aside(roles, reason):
    assert read("One", "Two", roles=roles) == (None, [("d", reason)])


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({}, "no_messages"),
        ({"messages": []}, "no_messages"),
        ({"messages": "hello"}, "no_messages"),
        ({"messages": [{"role": "user", "content": ["hello"]}]}, "not_text"),
        ({"messages": [{"role": {"name": "user"}, "content": "hello"}]}, "unknown_role"),
        ({"messages": [{"role": ["user"], "content": "hello"}]}, "unknown_role"),
    ],
)
def test_what_is_no_dialogue_is_set_aside(record, reason):
    (found,) = speakable_dialogue("d", record, CONFIG)
    assert (found.id, found.reason) == ("d", reason)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (" \n", "empty_turn"),
        ("...", "nothing_to_say"),
        ("Try this:\n```python\nprint(1)\n```", "code"),
        ("It is $\\frac{1}{2}$.", "maths"),
        ("| a | b |\n| c | d |", "tables"),
        ("See https://example.org/page", "addresses"),
        ("\n".join(f"- item {n}" for n in range(6)), "long_list"),
        ("word " * 200, "too_long"),
    ],
)
def test_a_dialogue_ends_before_what_cannot_be_said(content, reason):
    kept, rejected = read("One", "Two", "Three", content, "Five", "Six")
    assert kept == ("One", "Two")
    assert rejected == [("d/003", reason)]
    assert read(content, "Two") == (None, [("d/000", reason)])


def test_a_question_without_answer_at_the_end_is_left_off():
    assert read("One", "Two", "Three") == (("One", "Two"), [("d/003", "no_answer")])
    assert read("One") == (None, [("d/001", "no_answer")])


def test_system_prompts_are_dropped_when_told():
    config = SpokenTurnsConfig(drop_system_prompts=True)
    kept, _ = read("Be kind", "Hello", "Hi", roles=["system", "user", "assistant"], config=config)
    assert kept == ("Hello", "Hi")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("**Bold** and _light_ words", "Bold and light words"),
        ("# Title\nThe text.", "Title. The text."),
        ("Buy:\n- milk\n- bread", "Buy: milk. bread"),
        ("> quoted\nplain", "quoted. plain"),
        ("2 * 3 remains", "2 * 3 remains"),
        ("One\n\n\nTwo.  Three", "One. Two. Three"),
    ],
)
def test_layout_is_not_said(text, said):
    assert spoken_form(text, CONFIG) == said


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="most-characters"):
        SpokenTurnsConfig(most_characters_per_turn=0)
