"""StoryWorld: size, repeatability, and above all what is held out from what."""

import hashlib
import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from examples.storyworld import chat, generate, outputs
from examples.storyworld.encyclopedia import RELATIONS
from examples.storyworld.evaluation import questions
from examples.storyworld.stories import (
    PLACE_PHRASES,
    all_scenarios,
    held_out_story,
    parse_scenario,
    training_story,
)
from examples.storyworld.templates import Wordings, fill, is_held_out
from examples.storyworld.world import make_world
from megatron_speech.errors import ConfigError, DataError

SMALL = ["--documents", "3000", "--speech-utterances", "600", "--speech-stories", "50"]
SMALL += ["--cloze-items", "120", "--speech-test-utterances", "60"]


def run(folder: Path, seed: int = 1) -> outputs.Summary:
    return generate.main(["--output-dir", str(folder), "--seed", str(seed), *SMALL])


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storyworld")
    run(folder)
    return folder


def texts(path: Path) -> list[str]:
    return pq.read_table(path)["text"].to_pylist()


def training_texts(folder: Path) -> list[str]:
    names = ("corpus/train", "corpus/valid", "speech/train", "speech/stories")
    return [text for name in names for text in texts(folder / f"{name}.parquet")]


def test_same_seed_same_bytes(small: Path, tmp_path: Path) -> None:
    run(tmp_path / "again")
    run(tmp_path / "other", seed=2)
    assert digests(small) == digests(tmp_path / "again")
    assert digests(small) != digests(tmp_path / "other")


def test_size_of_the_world() -> None:
    world = make_world()
    rng = random.Random(5)
    documents = [generate.corpus_document(rng, world) for _ in range(20_000)]
    summary = outputs.summarize(documents, [], [], world.num_entities)
    assert 600 <= summary.distinct_words <= 900
    assert summary.duplicate_share < 0.01
    assert summary.entities >= 300
    assert len(all_scenarios()) >= 24
    lengths = [len(text.split()) for text in documents]
    assert 20 < sum(lengths) / len(lengths) < 40


def test_every_opening_names_person_and_place() -> None:
    """Without it a story's combination of name and place could not be told from its text."""
    for scenario in all_scenarios():
        for wording in scenario.openings.variations:
            for template in wording:
                assert "{N}" in template, template
                assert "{at}" in template or "{to}" in template, template


def test_training_stories_hold_no_test_combination() -> None:
    """And hold every branch and every wording, with other names and places."""
    world, rng = make_world(), random.Random(7)
    seen: set[tuple[str, str, str]] = set()
    wordings, endings = set(), set()
    for number in range(15_000):
        story = training_story(rng, world, even=number % 2 == 0)
        seen.add((story.person.name, story.place, story.wording))
        wordings.add(story.wording)
        endings.add((story.scenario.name, story.branch, story.ending_index))
    for _ in range(2_000):
        story = held_out_story(rng, world, all_scenarios())
        assert (story.person.name, story.place, story.wording) not in seen
        assert story.wording in wordings
        assert (story.scenario.name, story.branch, story.ending_index) in endings
    scenarios = all_scenarios()
    assert len(wordings) == sum(len(c) for s in scenarios for c in s.causes)
    assert len(endings) == sum(len(e) for s in scenarios for e in s.endings)


def test_hold_out_is_a_tenth_and_spares_every_wording() -> None:
    world = make_world()
    for scenario in all_scenarios()[::6]:
        for branch, causes in enumerate(scenario.causes):
            for index in range(len(causes)):
                wording = f"{scenario.name}/{branch}/{index}"
                held = [
                    is_held_out(person.name, place, wording)
                    for person in world.people
                    for place in PLACE_PHRASES
                ]
                assert 0.05 < sum(held) / len(held) < 0.15


def test_no_written_training_text_contains_a_test_story(small: Path) -> None:
    """On the files themselves: no document has an item's opening together with its cause."""
    documents = training_texts(small)
    items = [json.loads(line) for line in (small / "eval" / "cloze.jsonl").open()]
    assert len(items) == 240
    for item in items:
        opening = item["context"][0]
        with_opening = [text for text in documents if opening in text]
        for text in with_opening:
            assert not all(sentence in text for sentence in item["context"]), text


def test_cloze_pairs(small: Path) -> None:
    items = [json.loads(line) for line in (small / "eval" / "cloze.jsonl").open()]
    by_task = {task: [i for i in items if i["task"] == task] for task in ("topic", "story")}
    assert len(by_task["topic"]) == len(by_task["story"]) == 120
    assert len({item["id"] for item in items}) == len(items)
    for topic, story in zip(by_task["topic"], by_task["story"], strict=True):
        assert topic["context"] == story["context"]
        assert topic["right"] == story["right"]
        assert 2 <= len(topic["context"]) <= 4
        for item in (topic, story):
            assert item["right"] != item["wrong"]
    endings = [_ending_templates(branch) for branch in (0, 1)]
    for item in by_task["story"]:
        name = _name_in(item["context"])
        branch_of_right = [b for b in (0, 1) if item["right"] in endings[b][name]]
        assert any(item["wrong"] in endings[1 - b][name] for b in branch_of_right)


def _ending_templates(branch: int) -> dict[str, set[str]]:
    return {
        person.name: {
            fill(template, person.slots)
            for scenario in all_scenarios()
            for wording in scenario.endings[branch].variations
            for template in wording
        }
        for person in make_world().people
    }


def _name_in(sentences: list[str]) -> str:
    names = {person.name for person in make_world().people}
    return next(w for s in sentences for word in s.split() if (w := word.strip('.,?!"')) in names)


def test_facts_stay_out_of_speech(small: Path) -> None:
    """No text for speech states a fact about a person; each asked fact is in the corpus."""
    world = make_world()
    spoken = " ".join(
        texts(small / "speech" / "train.parquet") + texts(small / "speech" / "stories.parquet")
    )
    rng = random.Random(3)
    corpus = " ".join(generate.corpus_document(rng, world) for _ in range(10_000))
    for person in world.people:
        for relation in RELATIONS:
            slots = {**person.slots, "V": getattr(person, relation.field)}
            statements = {
                fill(template, slots)
                for wording in relation.statements.variations
                for template in wording
            }
            assert not any(statement in spoken for statement in statements)
            assert sum(corpus.count(statement) for statement in statements) >= 6
            if person.asked:
                asked = [fill(t, slots) for w in relation.questions.variations for t in w]
                assert not any(question in corpus for question in asked)


def test_words_of_questions_and_answers_are_spoken() -> None:
    """A tokenizer trained on the speech texts has heard every word of the evaluation."""
    world, rng = make_world(), random.Random(11)
    spoken = {
        word
        for text in generate.speech_texts(rng, world, 12_000)
        for word in outputs.words_of(text.text)
    }
    needed = {
        word
        for question in questions(world)
        for text in (question.question, *question.answers)
        for word in outputs.words_of(text)
    }
    assert needed <= spoken
    assert len(questions(world)) >= 200


def test_windows_have_the_length_of_spans(small: Path) -> None:
    rows = pq.read_table(small / "speech" / "train.parquet").to_pylist()
    lengths = [len(row["text"].split()) for row in rows if row["kind"] == "window"]
    assert len(lengths) == 300
    assert min(lengths) <= 3
    assert 12 < max(lengths) <= generate.MAX_WINDOW_WORDS
    rng, document = random.Random(2), [f"w{i}" for i in range(400)]
    windows = [generate.cut_window(rng, document).split() for _ in range(20_000)]
    inner = [len(w) for w in windows if w[0] != "w0" and w[-1] != "w399"]
    assert abs(sum(inner) / len(inner) - generate.MEAN_WINDOW_WORDS) < 0.3
    counts = [sum(name in window for window in windows) for name in ("w0", "w200", "w399")]
    assert max(counts) < 1.25 * min(counts)


def test_poisson_mean() -> None:
    rng = random.Random(1)
    draws = [generate.poisson(rng, 10) for _ in range(4000)]
    mean = sum(draws) / len(draws)
    assert abs(mean - 10) < 4 * (10 / 4000) ** 0.5


def test_speech_test_texts_are_new(small: Path) -> None:
    known = set(texts(small / "speech" / "train.parquet"))
    rows = pq.read_table(small / "speech" / "test.parquet").to_pylist()
    assert {kind: sum(r["kind"] == kind for r in rows) for kind in ("sentence", "window")} == {
        "sentence": 60,
        "window": 60,
    }
    assert not known & {row["text"] for row in rows}


def test_segments_and_utterances(small: Path) -> None:
    segments = pq.read_table(small / "speech" / "stories.parquet")["id"].to_pylist()
    assert len({i.split("/")[0] for i in segments}) == 50
    assert segments[:2] == ["story-000000/000", "story-000000/001"]
    items = [json.loads(line) for line in (small / "eval" / "cloze.jsonl").open()]
    asked = [json.loads(line) for line in (small / "eval" / "qa.jsonl").open()]
    spoken = texts(small / "eval" / "utterances.parquet")
    assert len(spoken) == len(set(spoken))
    needed = {s for i in items for s in (*i["context"], i["right"], i["wrong"])}
    assert needed | {item["question"] for item in asked} == set(spoken)


def test_bad_settings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="documents is 1"):
        generate.GenerateConfig(output_dir=tmp_path, documents=1)
    with pytest.raises(ConfigError, match="documents is 1"):
        generate.main(["--output-dir", str(tmp_path), "--documents", "1"])
    with pytest.raises(SystemExit, match="2"):
        generate.main(["--output-dir", str(tmp_path), "--document"])
    assert "documents" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_bad_templates_are_refused() -> None:
    with pytest.raises(DataError, match="must start with one of"):
        parse_scenario("broken\n? {N} sat down.")
    with pytest.raises(DataError, match="in pairs"):
        parse_scenario("half\n* {N} went {to}.\n1 a\n2 b\n- c\n1> d\n2> e\n2> f")
    with pytest.raises(DataError, match="unknown slot"):
        fill("{nobody} came.", {"N": "Anna"})
    with pytest.raises(DataError, match="empty"):
        Wordings.of()


def test_dialogues_can_be_answered_from_what_was_said(tmp_path):
    counts = chat.main(f"--output-dir {tmp_path} --dialogues 300 --items 12".split())
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    items = [json.loads(line) for line in (tmp_path / "eval.jsonl").read_text().splitlines()]
    assert counts["dialogues"] == len(lines) == 300
    assert [len({i["id"] for i in items}), len(items)] == [60, 60]
    told = {m["content"] for line in lines for m in line["messages"]}
    people = {person.name: person for person in make_world().people}
    for item in items:
        said, kind = " ".join(item["turns"]), item["kind"]
        assert 0 < item["chance"] <= 0.5
        if kind == "fact":
            name = next(name for name in people if name in said)
            assert people[name].asked
            assert item["answers"][0] in vars(people[name]).values()
        elif kind == "ending":
            assert item["wrong"]
            assert not set(item["answers"]) & set(item["wrong"])
        else:
            assert item["answers"][0] in said
        assert not {t for t in item["turns"] if len(t.split()) > 8} & told  # stories are new
    first = {line["messages"][0]["content"] for line in lines}
    short = " ".join(text for text in first if len(text.split()) <= 8)  # facts and small talk
    assert not [name for name in people if people[name].asked and name in short]
    assert [name for name in people if name in short]
