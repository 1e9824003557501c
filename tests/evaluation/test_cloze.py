"""Items become the token layouts that the module draws, and are scored by the three rules."""

import json

import numpy as np
import pytest

from megatron_speech.errors import ConfigError, DataError
from megatron_speech.evaluation import cascade, cloze
from megatron_speech.evaluation.context import EvaluationContext, Figure, Utterances
from megatron_speech.evaluation.items import ClozeItem, by_task, read_cloze
from megatron_speech.evaluation.scoring import LanguageModel, Query
from tests.evaluation.fakes import SENTENCES, TableTranscriber, sentence_codes, write_speech

ITEM = ClozeItem(
    id="topic-0",
    task="topic",
    context=(SENTENCES[0], SENTENCES[1]),
    right=SENTENCES[2],
    wrong=SENTENCES[3],
)


@pytest.fixture(scope="module")
def model(model_folder):
    return LanguageModel.from_pretrained(model_folder)


@pytest.fixture
def utterances(speech_folder):
    return Utterances(speech_folder)


@pytest.fixture
def item_file(tmp_path):
    lines = [
        {"id": "a", "task": "topic", "context": SENTENCES[:2], "right": SENTENCES[2]},
        {"id": "b", "task": "story", "context": SENTENCES[1:2], "right": SENTENCES[0]},
        {"id": "c", "task": "topic", "context": SENTENCES[2:3], "right": SENTENCES[1]},
    ]
    path = tmp_path / "cloze.jsonl"
    path.write_text("".join(json.dumps(line | {"wrong": SENTENCES[3]}) + "\n" for line in lines))
    return path


def tokens_of(vocab, *sentences):
    return (np.concatenate([sentence_codes(s) for s in sentences]) + vocab.code_offset).tolist()


@pytest.mark.parametrize("direction", cloze.DIRECTIONS)
def test_layout_of_a_direction(model, utterances, direction):
    vocab = model.vocab
    boa, eoa, eod = vocab.begin_of_audio_id, vocab.end_of_audio_id, vocab.eod_id
    text = vocab.text.encode(" ".join(ITEM.context))
    spoken = tokens_of(vocab, *ITEM.context)
    context = {
        "t2t": [eod, *text],
        "s2t": [eod, boa, *spoken, eoa],
        "t2s": [eod, *text, boa],
        "s2s": [eod, boa, *spoken],
    }[direction]
    if direction.endswith("t"):
        endings, prior = [vocab.text.encode(" " + s) for s in SENTENCES[2:4]], [eod]
    else:
        endings = [[*tokens_of(vocab, s), eoa] for s in SENTENCES[2:4]]
        prior = [eod, boa]
    layout = cloze.lay_out(ITEM, direction, vocab, utterances)
    (query,), (unconditional,) = layout.conditional, layout.unconditional
    assert query.context.tolist() == context
    assert [ending.tolist() for ending in query.endings] == endings
    assert unconditional.context.tolist() == prior
    assert [ending.tolist() for ending in unconditional.endings] == endings
    assert layout.lengths == tuple(map(len, endings))


def test_text_ending_starts_with_its_space(model):
    _, ending = cloze.split_text(model.vocab, "The sky grew dark.", "He baked a cake.")
    assert model.vocab.text.decode(ending.tolist()) == " He baked a cake."


def test_rules_are_total_mean_and_pmi(model, utterances):
    items = [ITEM, ClozeItem(id="x", task="topic", context=ITEM.context[:1], right=SENTENCES[3],
                             wrong=SENTENCES[1])]  # fmt: skip
    measured = cloze.score_items(model, utterances, items, "t2s")
    points = dict.fromkeys(cloze.RULES, 0.0)
    for item in items:
        layout = cloze.lay_out(item, "t2s", model.vocab, utterances)
        (query,), boa = layout.conditional, model.vocab.begin_of_audio_id
        total = model.score([query])[0]
        prior = Query(context=np.array([model.vocab.eod_id, boa]), endings=query.endings)
        scores = {
            "total": total,
            "per_token": total / [len(ending) for ending in query.endings],
            "pmi": total - model.score([prior])[0],
        }
        for rule, (right, wrong) in scores.items():
            points[rule] += right > wrong
    assert {rule: figure.accuracy * 2 for rule, figure in measured.items()} == points


def test_headline_rule_is_fixed_by_the_ending():
    assert {d: cloze.HEADLINE_RULE[d] for d in cloze.DIRECTIONS} == {
        "t2t": "total", "s2t": "total", "s2s": "pmi", "t2s": "pmi",
    }  # fmt: skip


def test_accuracy_counts_ties_half():
    scores = np.array([[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0], [-1.0, -3.0]])
    figure = cloze.accuracy_of(scores)
    assert (figure.accuracy, figure.n) == (2.5 / 4, 4)


def test_standard_error_of_a_proportion():
    assert Figure(accuracy=0.8, n=400).stderr == pytest.approx(0.02)


def test_evaluate_reports_every_part_and_direction(model, utterances, item_file):
    context = EvaluationContext(
        model=model, utterances=utterances, cloze_paths=(item_file,), limit=1
    )
    results = cloze.evaluate(context)
    found = {(result.part, result.direction): result for result in results}
    assert set(found) == {(p, d) for p in ("topic", "story") for d in cloze.DIRECTIONS}
    assert all(set(r.rules) == set(cloze.RULES) and r.headline.n == 1 for r in results)


def test_a_sentence_that_was_not_spoken_is_an_error(model, tmp_path, item_file):
    write_speech(tmp_path / "part.parquet", SENTENCES[:2])
    context = EvaluationContext(
        model=model, utterances=Utterances(tmp_path / "part.parquet"), cloze_paths=(item_file,)
    )
    with pytest.raises(DataError, match=r"2 of 4 sentences have no codes.*'He baked a cake\.'"):
        cloze.evaluate(context)


def test_text_directions_need_no_speech_of_endings(model, tmp_path, item_file):
    write_speech(tmp_path / "part.parquet", SENTENCES[:3])
    context = EvaluationContext(
        model=model,
        utterances=Utterances(tmp_path / "part.parquet"),
        cloze_paths=(item_file,),
        directions=("s2t",),
    )
    assert {result.part for result in cloze.evaluate(context)} == {"topic", "story"}


def test_cascade_of_a_perfect_asr_equals_text(model, utterances, item_file):
    context = EvaluationContext(
        model=model,
        utterances=utterances,
        speech_tokenizer=TableTranscriber(),
        cloze_paths=(item_file,),
        directions=("t2t",),
    )
    text = {result.part: result.rules for result in cloze.evaluate(context)}
    for result in cascade.evaluate(context):
        assert result.details["contexts_read_without_error"] == 1.0
        assert result.rules == text[result.part]


def test_spelling_is_restored_from_examples():
    examples = ["Then Anna met Mr Bo.", "The boat sank."]
    heard = ["the anna sank", "bo"]
    assert cascade.restore_spelling(heard, examples) == ["The Anna sank.", "Bo."]


def test_parts_of_different_tokenizers_are_refused(model, tmp_path, utterances):
    with pytest.raises(DataError, match=f"{'f' * 16}.*--speech-tokenizer is 0000"):
        EvaluationContext(
            model=model, utterances=utterances, speech_tokenizer=TableTranscriber("0000")
        )
    write_speech(tmp_path / "other.parquet", SENTENCES[:1], num_codes=32)
    with pytest.raises(DataError, match=r"32 codes.*vocabulary has 16"):
        EvaluationContext(model=model, utterances=Utterances(tmp_path / "other.parquet"))


def test_item_files_that_are_wrong(tmp_path):
    path = tmp_path / "cloze.jsonl"
    with pytest.raises(DataError, match="do not exist"):
        read_cloze(path)
    for content, message in [
        (b"", "holds no items"),
        (b"not json\n", "line 1 is not JSON"),
        (b'{"id": "a"}\n', "line 1 needs the fields context, id, right, task, wrong; got id"),
        (b"\xff\xfe\n", "not UTF-8"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_cloze(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 7),
        ("task", None),
        ("context", "one sentence"),
        ("context", ["one", None]),
        ("right", ["a list"]),
        ("wrong", {"text": "b"}),
    ],
)
def test_items_of_another_kind_are_refused(tmp_path, field, value):
    item = {"id": "a", "task": "t", "context": ["It rained."], "right": "a", "wrong": "b"}
    (tmp_path / "cloze.jsonl").write_text(json.dumps(item | {field: value}))
    with pytest.raises(DataError, match=rf"line 1: {field} is .*, expected"):
        read_cloze(tmp_path / "cloze.jsonl")


def test_limit_holds_for_each_task(item_file):
    grouped = by_task(read_cloze(item_file), 1)
    assert {task: [item.id for item in items] for task, items in grouped.items()} == {
        "topic": ["a"],
        "story": ["b"],
    }


def test_unknown_direction(model, utterances):
    with pytest.raises(ConfigError, match="no direction 'x2y'"):
        cloze.lay_out(ITEM, "x2y", model.vocab, utterances)
