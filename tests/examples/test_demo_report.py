"""The report: its page needs nothing from outside, its JSON has the documented keys."""

import re
from html.parser import HTMLParser

import pytest

from examples.quickstart import charts, report
from examples.quickstart.bars import held_against_bars
from examples.quickstart.page import build_page
from examples.quickstart.page_data import PageData
from examples.quickstart.report import for_programs
from examples.quickstart.tables import percent, seconds_text, thousands
from tests.examples.sample_report import DIRECTIONS, make_page_data, make_report

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """Collects what a page refers to, and whether its elements are closed in order."""

    def __init__(self):
        super().__init__()
        self.references, self.open, self.problems = [], [], []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                self.references.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(tag)


@pytest.fixture(scope="module")
def page():
    return build_page(make_page_data())


@pytest.fixture(scope="module")
def reader(page):
    reader = Reader()
    reader.feed(page)
    return reader


def test_page_is_self_contained(page, reader):
    assert all(ref.startswith(("#", "data:")) for ref in reader.references)
    assert not re.search(r"https?://|@import|url\((?!#)|<script", page)


def test_elements_are_closed_in_order(reader):
    assert not reader.problems
    assert not reader.open


def test_links_lead_to_sections(page, reader):
    targets = [ref[1:] for ref in reader.references if ref.startswith("#")]
    assert len(targets) == 8
    assert all(f'id="{target}"' in page for target in targets)


def test_every_recording_can_be_played(reader):
    sounds = [ref for ref in reader.references if ref.startswith("data:audio/flac;base64,")]
    assert len(sounds) == 4


def test_text_from_models_is_escaped(page):
    assert "in &lt;Mell&gt; &amp; co" in page
    assert "<Mell>" not in page


def test_what_was_misread_is_marked(page):
    assert '<span class="wrong">gold</span>' in page
    assert '<span class="wrong">boat</span>' not in page


def test_model_and_control_stand_side_by_side(page):
    for arm, value in (("model", "95.0"), ("control", "51.0")):
        assert f"{arm}, S→T: {value} ±" in page


def test_page_without_samples(page):
    bare = build_page(PageData(report=make_report()))
    assert len(bare) < len(page)
    assert 'id="listen"' not in bare
    assert 'id="results"' in bare


def test_report_has_the_documented_keys():
    found = for_programs(make_report())
    expected = {
        "speech_tokenizer": "wer_vq wer_no_vq wer_held_out_voice codebook_usage perplexity",
        "text_to_token": "wer wer_real_codes wer_windows wer_real_codes_windows",
        "interleave": "documents speech_word_fraction text_tokens speech_tokens",
        "pretraining": "text_loss speech_loss",
    }
    for part, keys in expected.items():
        assert set(keys.split()) <= found[part].keys()
    for arm in ("model", "control"):
        for task in ("topic", "story"):
            for direction in DIRECTIONS:
                result = found["evaluation"][arm]["cloze"][task][direction]
                assert {"accuracy", "n", "stderr", "rules"} <= result.keys()
                assert set(result["rules"]) == {"total", "per_token", "pmi"}
        for direction in DIRECTIONS:
            tasks = found["evaluation"][arm]["cloze"]
            assert tasks[direction] == tasks["topic"][direction]


def test_bars_are_told_apart():
    met = {bar["name"]: bar["met"] for bar in held_against_bars(make_report())}
    assert all(met.values())
    worse = make_report()
    worse["speech_tokenizer"]["wer_vq"] = 0.13
    worse["text_to_token"]["wer_windows"] = 0.19
    worse["evaluation"]["control"]["cloze"]["topic"]["s2t"]["accuracy"] = 0.75
    fallen = {bar["name"] for bar in held_against_bars(worse) if not bar["met"]}
    assert fallen == {
        "Speech tokenizer: word errors, held-out sentences",
        "Text-to-token: word errors beyond real codes, word windows",
        "S→T, Topic-StoryCloze, above the control",
    }


def test_time_is_a_bar_only_where_it_applies():
    def names(precision, seconds):
        found = make_report() | {"machine": {"precision": precision}, "seconds": {"a": seconds}}
        return {bar["name"]: bar["met"] for bar in held_against_bars(found)}

    name = "The whole chain on this machine"
    assert name not in names("fp32", 10)
    assert names("bf16", 1200)[name]
    assert not names("bf16", 1201)[name]


def test_seeds_are_averaged():
    runs = [
        {"cloze": {"accuracy": accuracy, "n": 400, "stderr": 0.0, "rule": "total"}, "model": "a"}
        for accuracy in (0.7, 0.8, 0.9)
    ]
    merged = report.average(runs)["cloze"]
    assert merged["accuracy"] == pytest.approx(0.8)
    assert merged["seed_std"] == pytest.approx(0.1)
    assert merged["stderr"] == pytest.approx(0.02)
    assert merged["n"] == 400
    assert report.average(runs[:1]) == runs[0]


def test_bar_heights_are_the_accuracies():
    bars = [charts.Bar(label="a", value=v, stderr=0.0, css="model") for v in (0.25, 0.5)]
    picture = charts.grouped_bars([("S→T", bars)], {}, "label")
    low, high = (float(h) for h in re.findall(r'height="([\d.]+)" class="bar', picture))
    assert high == pytest.approx(2 * low, abs=0.02)


def test_numbers_as_people_write_them():
    assert [percent(0.123), percent(0.5, 0), percent(None), percent(float("nan"))] == [
        "12.3%", "50%", "–", "–",
    ]  # fmt: skip
    assert [thousands(12_345), thousands(1_234_567)] == ["12,345", "1.2M"]
    assert [seconds_text(0.42), seconds_text(59), seconds_text(125)] == [
        "0.4 s", "59 s", "2 min 5 s",
    ]  # fmt: skip
