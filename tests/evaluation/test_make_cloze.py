"""Cloze items from documents: what may be an item, what may not, and that both sides are fair."""

import json
import random

import pytest

from megatron_speech.errors import CheckpointError, ConfigError, DataError
from megatron_speech.evaluation.cloze_items import ItemConfig, spoken_length
from megatron_speech.evaluation.items import read_cloze, read_cloze_sets
from megatron_speech.evaluation.training_text import find_seen
from tests.evaluation.fakes import SENTENCES, write_speech
from tools import evaluate, make_cloze

SUBJECTS = "baker miller sailor teacher doctor farmer painter singer driver hunter".split()
VERBS = "found lost sold bought hid carried painted dropped wanted forgot".split()
THINGS = "lamp boat coat drum bell horse letter ladder basket candle".split()
PLACES = "mill harbour school market forest garden tower bridge cellar station".split()


def invent(count, seed):
    """Different sentences, about as long as one another."""
    chance = random.Random(seed)
    made = {}
    while len(made) < count:
        parts = [chance.choice(words) for words in (SUBJECTS, VERBS, THINGS, PLACES)]
        number = chance.randrange(100, 1000)
        made["The {} {} the {} of number {} near the {}.".format(*parts[:3], number, parts[3])] = 1
    return list(made)


def write_corpus(path, texts, ids=True):
    lines = [{"text": text} | ({"id": f"d{n}"} if ids else {}) for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def documents(count=8, size=40, seed=0):
    sentences = invent(count * size, seed)
    return [sentences[n * size : (n + 1) * size] for n in range(count)]


def make(corpus, folder, *flags):
    arguments = ["--input", corpus, "--output-dir", folder, *flags]
    return make_cloze.main(list(map(str, arguments)))


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "held-out.jsonl", map(" ".join, documents()))


def test_right_follows_and_wrong_does_not(corpus, tmp_path):
    told = documents()
    where = {s: (d, n) for d, document in enumerate(told) for n, s in enumerate(document)}
    make(corpus, tmp_path / "made", "--items", "30", "--name", "mine")
    items = read_cloze(tmp_path / "made" / "cloze.jsonl")
    assert {item.task for item in items} == {"mine-topic", "mine-story"}
    for item in items:
        places = [where[sentence] for sentence in (*item.context, item.right)]
        document, first = places[0]
        assert places == [(document, first + n) for n in range(4)]
        other, place = where[item.wrong]
        if item.task == "mine-topic":
            assert other != document
        else:
            assert other == document
            assert place >= first + 3 + 5
        assert abs(len(item.wrong) - len(item.right)) <= 0.1 * len(item.right)
    assert len({item.id for item in items}) == len(items)


def test_texts_to_be_spoken_are_those_of_the_items(corpus, tmp_path):
    """Each sentence once, in the group of its item alone: `make_speech` gives a group one voice."""
    make(corpus, tmp_path / "made", "--items", "20")
    lines = (tmp_path / "made" / "texts.jsonl").read_text().splitlines()
    groups = {row["text"]: row["id"].rpartition("/")[0] for row in map(json.loads, lines)}
    assert len(groups) == len(lines)
    spoken = set()
    for item in read_cloze(tmp_path / "made" / "cloze.jsonl"):
        sentences = {*item.context, item.right, item.wrong}
        assert len({groups[sentence] for sentence in sentences}) == 1
        spoken |= sentences
    assert spoken == groups.keys()


def test_items_are_a_function_of_the_seed(corpus, tmp_path):
    made = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(corpus, tmp_path / name, "--items", "20", "--seed", seed)
        made[name] = (tmp_path / name / "cloze.jsonl").read_text()
    assert made["a"] == made["b"] != made["c"]


def test_documents_take_turns(tmp_path):
    short, long = documents(6, 12, seed=1), documents(1, 400, seed=2)
    corpus = write_corpus(tmp_path / "x.jsonl", map(" ".join, short + long), ids=False)
    made = make(corpus, tmp_path / "made", "--items", "7", "--tasks", "topic")
    assert made["items"] == {"text-topic": 7}
    contexts = {i.context[0] for i in read_cloze(tmp_path / "made" / "cloze.jsonl")}
    assert all(contexts & set(document) for document in short)


def test_short_documents_serve_for_topic_alone(tmp_path):
    corpus = write_corpus(tmp_path / "x.jsonl", map(" ".join, documents(30, 5)))
    made = make(corpus, tmp_path / "made")
    assert set(made["items"]) == {"text-topic"}
    assert made["items"]["text-topic"] >= 10


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda s: s.replace("near", "at http://example.org/x near"), "unspeakable"),
        (lambda s: s.replace("The", "the"), "fragment"),
        (lambda s: s[:-1] + ",", "fragment"),
        (lambda s: s[:-1] + " and on" * 40 + ".", "length"),
    ],
)
def test_sentences_that_are_left_out(spoil, reason, tmp_path):
    told = documents()
    bad = {spoil(told[0][3]), spoil(told[1][7])}
    told[0][3], told[1][7] = spoil(told[0][3]), spoil(told[1][7])
    corpus = write_corpus(tmp_path / "x.jsonl", map("\n".join, told))
    made = make(corpus, tmp_path / "made")
    assert made["not_used"][reason] == 2
    for item in read_cloze(tmp_path / "made" / "cloze.jsonl"):
        assert bad.isdisjoint({*item.context, item.right, item.wrong})


def test_repeated_sentences_and_documents_are_left_out(tmp_path):
    told = documents()
    told[2][5] = told[3][9]
    corpus = write_corpus(tmp_path / "x.jsonl", map(" ".join, [*told, told[0]]))
    made = make(corpus, tmp_path / "made")
    assert made["not_used"]["repeated"] == 2
    assert made["not_used"]["documents that came before"] == 1
    assert made["documents"] == len(told)


def test_nothing_of_training_text_is_used(corpus, tmp_path):
    """Whole documents, sentences in other words' company, and part of a long sentence."""
    told = documents()
    middle = " ".join(told[1][4].split()[1:9]).upper().replace(" ", "  ")
    training = [" ".join(told[0]), f"So it was: {told[1][2]} And no more.", f"He said {middle}!"]
    write_corpus(tmp_path / "training.jsonl", training)
    made = make(corpus, tmp_path / "made", "--not-in", tmp_path / "training.jsonl")
    assert made["training_documents"] == 3
    assert made["not_used"]["in training text"] == 42
    for item in read_cloze(tmp_path / "made" / "cloze.jsonl"):
        used = {*item.context, item.right, item.wrong}
        assert used.isdisjoint({*told[0], told[1][2], told[1][4]})


def test_short_sentences_are_seen_whole_only():
    seen = find_seen(
        ["He went home.", "We left.", "今天天气很好。"], ["Then HE went, home", "今天天气很好吗"]
    )
    assert seen.sentences == {"He went home.", "今天天气很好。"}
    assert seen.documents == 2


CHINESE = [f"第{n}个人早上去河边的市场买了{n}条鱼。" for n in "一二三四五六七八九十百千万零"]
HINDI = [f"{name} ने सुबह बाज़ार जाकर फल और सब्ज़ियाँ खरीदीं।" for name in
         "राम सीता मोहन गीता श्याम राधा अमित नीता रवि कमला सुरेश मीना".split()]  # fmt: skip


@pytest.mark.parametrize(
    ("language", "sentences", "join"), [("zh", CHINESE, ""), ("hi", HINDI, " ")]
)
def test_other_scripts(language, sentences, join, tmp_path):
    other = [s.replace("市场", "学校").replace("बाज़ार", "गाँव") for s in sentences]
    corpus = write_corpus(tmp_path / "x.jsonl", [join.join(sentences), join.join(other)], False)
    made = make(corpus, tmp_path / "made", "--language", language, "--context-sentences", "2")
    assert made["items"]["text-topic"] >= 2
    items = read_cloze(tmp_path / "made" / "cloze.jsonl")
    assert all(s in {*sentences, *other} for i in items for s in (*i.context, i.right, i.wrong))


def test_length_is_that_of_speech():
    assert spoken_length("ab c") == 4
    assert spoken_length("今天 a") == 8


def test_documents_that_give_nothing(tmp_path):
    corpus = write_corpus(tmp_path / "x.jsonl", ["Short. Very short.", "no sentences here"])
    with pytest.raises(DataError, match="2 documents with 0 usable sentences give no item"):
        make(corpus, tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"items": 0}, "--items is 0"),
        ({"max_length": 10}, "--max-length 10 is below"),
        ({"length_tolerance": 1.0}, "--length-tolerance is 1.0"),
        ({"tasks": ()}, "--tasks needs"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(ConfigError, match=message):
        ItemConfig(**settings)


def test_two_sets_in_one_evaluation(corpus, model_folder, tmp_path):
    """Made items beside others, one with speech; and the base's own figures, which are the same."""
    made = make(corpus, tmp_path / "made", "--items", "6", "--base", model_folder)
    lines = (tmp_path / "made" / "texts.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    write_speech(tmp_path / "codes" / "a.parquet", [*texts, *SENTENCES])
    item = {"id": "a", "task": "topic", "context": SENTENCES[:2], "right": SENTENCES[2]}
    (tmp_path / "cloze.jsonl").write_text(json.dumps(item | {"wrong": SENTENCES[3]}) + "\n")
    sets = [str(tmp_path / "cloze.jsonl"), str(tmp_path / "made" / "cloze.jsonl")]
    flags = ["--model", str(model_folder), "--output", str(tmp_path / "out.json"), "--cloze", *sets]
    results = evaluate.main([*flags, "--speech", str(tmp_path / "codes")])["cloze"]
    assert set(results) == {"topic", "text-topic", "text-story"}
    assert all(set(parts) == {"t2t", "s2t", "s2s", "t2s"} for parts in results.values())
    for task in ("text-topic", "text-story"):
        assert results[task]["t2t"]["rules"] == made["base"][task]["t2t"]


def test_tasks_of_one_name_are_kept_apart(corpus, tmp_path):
    make(corpus, tmp_path / "made", "--items", "6")
    path = tmp_path / "made" / "cloze.jsonl"
    with pytest.raises(DataError, match=r"both hold a task called 'text-topic'.*--name"):
        read_cloze_sets([path, path])


def test_training_text_without_a_text_is_not_taken_for_none_in_common(corpus, tmp_path):
    other = tmp_path / "train.jsonl"
    other.write_text('{"txt": "The baker found the lamp."}\n')
    with pytest.raises(DataError, match=r"--not-in .*no document with a text.*--text-key"):
        make(corpus, tmp_path / "made", "--items", "5", "--not-in", other)
    other.write_text('{"txt": "a"}\n{"text": "The baker found the lamp."}\n')
    report = make(corpus, tmp_path / "made", "--items", "5", "--not-in", other)
    assert report["training_documents"] == 1
    assert any("training text" in reason for reason in report["not_used"])


def test_a_base_that_cannot_be_opened_changes_nothing(corpus, tmp_path):
    make(corpus, tmp_path / "made", "--items", "5")
    before = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    with pytest.raises(CheckpointError):
        make(corpus, tmp_path / "made", "--items", "5", "--seed", "2", "--base", tmp_path / "none")
    assert {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()} == before
