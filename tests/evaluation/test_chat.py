"""The chat evaluation on a small random model: figures, rules, tables, bad input."""

import json

import numpy as np
import pytest

from megatron_speech.errors import ConfigError, DataError
from megatron_speech.evaluation.chat import EvaluateChatConfig, accuracies
from megatron_speech.evaluation.chat_replies import Reply, judge_reply
from megatron_speech.evaluation.chat_table import PAPER_ROWS, own_row
from megatron_speech.evaluation.items import ChatItem, first_of_each, read_chat_items
from megatron_speech.evaluation.judge import Judge
from megatron_speech.speech_tokenizer import tokenizer as speech_tokenizer_room
from tests.evaluation.fakes import SENTENCES, TableTranscriber, make_model, make_vocab, write_speech
from tests.evaluation.test_judge import answer_both, server
from tools import evaluate_chat


def item(number=0, kind="who", answers=("Anna",), wrong=(), chance=0.25, turns=None):
    turns = turns or (SENTENCES[4],)
    return ChatItem(
        id=f"{kind}-{number}", kind=kind, turns=turns, answers=answers, wrong=wrong, chance=chance
    )


@pytest.mark.parametrize(
    ("answer", "right"),
    [("It was Anna.", True), ("anna", True), ("It was Annabel.", False), ("", False)],
)
def test_an_answer_that_contains_the_reference_counts(answer, right):
    assert judge_reply(answer, item()) == (right, 0.25)


@pytest.mark.parametrize(
    ("answer", "right", "by_guessing"),
    [
        ("She came home dry.", True, 0.5),
        ("she came home quite dry", True, 0.5),
        ("She came home wet.", False, 0.5),
        ("She came home.", False, 0.0),  # as near to the one as to the other
        ("", False, 0.0),
        ("Something else altogether.", False, 0.0),
    ],
)
def test_the_nearer_ending_counts(answer, right, by_guessing):
    dry, wet = ("She came home dry.", "Her hat was dry."), ("She came home wet.",)
    asked = item(answers=dry, wrong=wet, chance=0.5)
    assert judge_reply(answer, asked) == (right, by_guessing)


def test_accuracies_by_kind_with_n_and_error():
    replies = [Reply(item=item(n, kind)) for n, kind in enumerate(("who", "who", "who", "where"))]
    found = accuracies(replies, ["Anna", "Ben", "Anna", "Anna"])
    assert found["who"]["accuracy"] == pytest.approx(2 / 3)
    assert found["who"]["stderr"] == pytest.approx(np.sqrt(2 / 9 / 3))
    assert found["all"]["n"] == 4
    assert found["all"]["chance"] == 0.25
    assert found["all of one turn"] == found["all"]


def test_models_are_compared_over_the_items_that_both_are_asked():
    later = item(2, "later", turns=(SENTENCES[0], SENTENCES[4]))
    replies = [Reply(item=item(0)), Reply(item=item(1)), Reply(item=later)]
    found = accuracies(replies, ["Anna", "Ben", "Anna"])
    assert found["all"]["accuracy"] == pytest.approx(2 / 3)
    before = accuracies(replies[:2], ["Anna", "Ben"])  # a base model knows no second turn
    assert found["all of one turn"] == before["all of one turn"] == before["all"]
    assert "all of one turn" not in accuracies(replies[2:], ["Anna"])
    assert accuracies([], []) == {}


def test_limits_are_per_kind():
    items = [item(n, kind) for n in range(3) for kind in ("who", "where")]
    kept = first_of_each(items, lambda item: item.kind, 1)
    assert [i.id for i in kept] == ["who-0", "where-0"]
    assert first_of_each(items, lambda item: item.kind, None) == items


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    make_model(folder / "model", make_vocab(folder))
    write_speech(folder / "codes" / "shard.parquet", SENTENCES)
    records = [
        vars(item(0)),
        vars(item(1, "later", turns=(SENTENCES[0], SENTENCES[4]))),
        vars(item(2, "ending", answers=("Dry.",), wrong=("Wet.",))),
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def arguments(folder, *more):
    given = {
        "model": "model",
        "speech-tokenizer": ".",
        "items": "items.jsonl",
        "questions": "codes",
        "output": "out.json",
    }
    flags = [part for k, v in given.items() for part in (f"--{k}", str(folder / v))]
    return [*flags, "--max-new-tokens", "20", "--context-tokens", "200", *more]


@pytest.fixture
def hearing(monkeypatch):
    class Loaded(TableTranscriber):
        @classmethod
        def from_pretrained(cls, path, device="cpu"):
            return cls()

    monkeypatch.setattr(speech_tokenizer_room, "SpeechTokenizer", Loaded, raising=False)


class Mute(TableTranscriber):
    """As the released speech tokenizer: it ends at its quantizer."""

    @classmethod
    def from_pretrained(cls, path, device="cpu"):
        return cls()

    def decode_text(self, codes, languages=None):
        raise ConfigError("cannot transcribe")


def test_without_a_recogniser_written_answers_are_judged(folder, monkeypatch, capsys):
    monkeypatch.setattr(speech_tokenizer_room, "SpeechTokenizer", Mute, raising=False)
    with pytest.raises(ConfigError, match=r"cannot transcribe.*without direct"):
        evaluate_chat.main(arguments(folder))
    more = ["--modes", "streaming", "--pretrained", str(folder / "model")]
    results = evaluate_chat.main(arguments(folder, *more))
    for found in (results["modes"]["streaming"], results["pretrained"]):
        assert "s2t" in found
        assert not {"s2s", "wer_codes"} & found.keys()
    assert "spoken ones are not" in capsys.readouterr().err


@pytest.mark.usefixtures("hearing")
def test_from_files_to_tables(folder, capsys):
    pretrained = ["--pretrained", str(folder / "model")]
    results = evaluate_chat.main(arguments(folder, *pretrained))
    assert json.loads((folder / "out.json").read_text()) == json.loads(json.dumps(results))
    assert set(results["modes"]) == {"text", "direct", "guided", "streaming"}
    directions = {mode: {"s2t", "s2s"} & found.keys() for mode, found in results["modes"].items()}
    assert directions["text"] == {"s2t"}
    assert directions["direct"] == {"s2s"}
    assert directions["guided"] == directions["streaming"] == {"s2t", "s2s"}
    assert results["modes"]["streaming"]["s2t"]["all"]["n"] == 3
    assert results["modes"]["streaming"]["wer_codes"] > 0
    assert results["pretrained"]["s2s"]["all"]["n"] == 2  # a base model knows no second turn
    both = results["pretrained"], results["modes"]["streaming"]
    assert [found["s2t"]["all of one turn"]["n"] for found in both] == [2, 2]
    out = capsys.readouterr().out
    assert "pre-trained" in out
    assert "GLM-4-Voice" in out


@pytest.mark.usefixtures("hearing")
def test_a_judge_grades_the_answers(folder):
    with server(answer_both) as (url, seen):
        more = ["--modes", "text", "--judge-url", url]
        results = evaluate_chat.main(arguments(folder, *more))
    judged = results["modes"]["text"]["judge"]
    assert (judged["quality"], judged["quality_n"]) == (8.0, 3)
    assert judged["correct_n"] == 2  # an ending has no fact to check
    assert len(seen) == 5
    row = own_row("text", results["modes"]["text"])
    assert (row.quality, row.utmos) == (8.0, None)


@pytest.mark.usefixtures("hearing")
def test_what_happens_to_the_judge_costs_no_answers(folder, tmp_path, monkeypatch):
    def fall(self, questions):
        raise KeyboardInterrupt

    monkeypatch.setattr(Judge, "judge", fall)
    out = tmp_path / "out.json"
    more = ["--modes", "text", "--output", str(out), "--judge-url", "http://127.0.0.1:1"]
    with pytest.raises(KeyboardInterrupt):
        evaluate_chat.main(arguments(folder, *more))
    kept = json.loads(out.read_text())["modes"]["text"]
    assert kept["s2t"]["all"]["n"] == len(kept["samples"]) == 3
    assert "judge" not in kept


def test_every_published_row_has_a_source():
    assert all(row.source and row.quality for row in PAPER_ROWS)


@pytest.mark.usefixtures("hearing")
def test_bad_input_is_refused(folder, tmp_path):
    asked = vars(item(turns=("Never spoken.",)))
    (tmp_path / "items.jsonl").write_text(json.dumps(asked))
    flags = arguments(folder, "--items", str(tmp_path / "items.jsonl"))
    with pytest.raises(DataError, match=r"'Never spoken\.'"):
        evaluate_chat.main(flags)
    (tmp_path / "items.jsonl").write_text(json.dumps({**asked, "answers": []}))
    with pytest.raises(DataError, match="no turns or no answers"):
        read_chat_items(tmp_path / "items.jsonl")
    paths = dict.fromkeys(("model", "speech_tokenizer", "items", "output"), folder)
    with pytest.raises(ConfigError, match="--utmos-model"):
        EvaluateChatConfig(**paths, questions=(folder,), utmos_model=folder)
