"""What is asked of the demo: every bar can be met, and every one can fall."""

import pytest

from examples.quickstart.bars import held_against_bars
from tests.examples.documented_keys import at
from tests.examples.sample_report import make_report

MODEL, CONTROL = "evaluation.model.cloze", "evaluation.control.cloze"
FALLS = [  # name of a bar, a figure, and a value of it with which that bar alone falls
    ("Speech tokenizer: word errors, held-out sentences", "speech_tokenizer.wer_vq", 0.13),
    ("Speech tokenizer: word errors, held-out voice", "speech_tokenizer.wer_held_out_voice", 0.19),
    ("Speech tokenizer: codebook use", "speech_tokenizer.codebook_usage", 0.79),
    ("Text-to-token: word errors beyond real codes, sentences", "text_to_token.wer", 0.13),
    (
        "Text-to-token: word errors beyond real codes, word windows",
        "text_to_token.wer_windows",
        0.19,
    ),
    ("S→T, Topic-StoryCloze", f"{MODEL}.topic.s2t.accuracy", 0.84),
    ("S→T, Topic-StoryCloze, above the control", f"{CONTROL}.topic.s2t.accuracy", 0.75),
    ("S→T, StoryCloze", f"{MODEL}.story.s2t.accuracy", 0.74),
    ("T→S by PMI, Topic-StoryCloze", f"{MODEL}.topic.t2s.accuracy", 0.74),
    ("T→T, Topic-StoryCloze: neither too hard nor too easy", f"{MODEL}.topic.t2t.accuracy", 0.99),
    ("T→T, Topic-StoryCloze: neither too hard nor too easy", f"{MODEL}.topic.t2t.accuracy", 0.79),
    ("Items of each cloze task", f"{MODEL}.topic.s2t.n", 499),
    ("Items of each cloze task", f"{CONTROL}.topic.s2t.n", 499),
    ("Items of each cloze task", f"{MODEL}.topic.t2s.n", 499),
    ("Items of each cloze task", f"{MODEL}.topic.t2t.n", 499),
    ("Items of each cloze task", f"{MODEL}.story.s2t.n", 499),
    ("The whole chain on this machine", "seconds_in_all", 1201),
]


def test_all_bars_can_be_met():
    found = {bar["name"]: bar["met"] for bar in held_against_bars(make_report())}
    assert found == {name: True for name, _, _ in FALLS}


@pytest.mark.parametrize(("name", "figure", "value"), FALLS)
def test_every_bar_can_fall(name, figure, value):
    worse = make_report()
    place, _, key = figure.rpartition(".")
    (at(worse, place) if place else worse)[key] = value
    assert [bar["name"] for bar in held_against_bars(worse) if not bar["met"]] == [name]


def test_time_is_a_bar_only_where_it_applies():
    def names(precision, seconds):
        found = make_report() | {"machine": {"precision": precision}, "seconds_in_all": seconds}
        return {bar["name"]: bar["met"] for bar in held_against_bars(found)}

    name = "The whole chain on this machine"
    assert name not in names("fp32", 10)
    assert names("bf16", 1200)[name]
    assert not names("bf16", 1201)[name]
