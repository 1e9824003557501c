"""The report: its page needs nothing from outside, its JSON has the documented keys."""

import re
from html.parser import HTMLParser

import pytest

from examples.quickstart import report
from examples.quickstart.report import build_page
from examples.quickstart.runner import Demo
from examples.quickstart.sizes import SIZES
from megatron_speech.pages import charts, percent, seconds_text, thousands
from tests.examples.documented_keys import missing_keys
from tests.examples.sample_report import DIRECTIONS, make_report, make_shown
from tests.interleaving.samples import write_codes

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
    return build_page(make_report(), **make_shown())


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
    bare = build_page(make_report())
    assert len(bare) < len(page)
    assert 'id="listen"' not in bare
    assert 'id="results"' in bare


def read(wer: float) -> dict:
    return {"wer": wer, "records": 300, "codebook_usage": 10 * wer, "perplexity": 1000 * wer}


def made_up_figures(size) -> dict:
    """What the stages of a run of this size come to."""
    codes = {"sentences": read(0.03), "windows": read(0.05), "held-out-voice": read(0.07)}
    found = make_report()["evaluation"]
    done = {
        "storyworld": {"name": "StoryWorld", "documents": 100, "text_documents": 99},
        "speech": {"utterances": 30, "hours": 0.1, "voices": 10},
        "codes": codes,
        "text_to_token": {"sentences": read(0.04), "windows": read(0.06), "parameters": 10},
        "interleaving": make_report()["interleave"],
        "evaluation": {arm: {str(seed): found[arm] for seed in size.seeds} for arm in found},
    }
    if size.without_vq:
        bare = {"wer sentences": 0.01, "wer windows": 0.02, "wer held-out-voice": 0.03}
        done["tokenizer_without_vq"] = {"validation": bare}
    run = {"text_loss": 1.0, "speech_loss": 2.0, "parameters": 10, "windows": 5}
    for arm in found:
        for seed in size.seeds:
            done[arm if len(size.seeds) == 1 else f"{arm}-{seed}"] = run
    return done


@pytest.fixture
def build(tmp_path):
    """Makes the report of a run of a size from made-up figures of its stages."""
    write_codes(tmp_path / "codes" / "sentences" / "a.parquet")

    def build(size="demo", text=()):
        machine = {"processor": "Example", "cores": 2, "precision": "bf16"}
        demo = Demo(size=SIZES[size], output=tmp_path, machine=machine, text=text)
        return report.build_report(
            demo,
            made_up_figures(SIZES[size]),
            {"seconds": {"speech": 60.0}, "seconds_in_all": 60.0},
        )

    return build


@pytest.mark.parametrize("size", SIZES)
def test_report_has_the_documented_keys(build, size):
    found = build(size)
    assert missing_keys(found) == []
    assert bool(found["bars"]) == (size != "smoke")
    for arm in ("model", "control"):
        tasks = found["evaluation"][arm]["cloze"]
        for direction in DIRECTIONS:
            assert tasks[direction] == tasks["topic"][direction]
    del found["pretraining"]["text_loss"]
    assert missing_keys(found) == ["pretraining.text_loss"]


def test_every_error_rate_has_its_number_of_texts(build):
    for size in SIZES:
        found = build(size, ("mine.parquet",))
        rates = [
            (part, key)
            for part in ("speech_tokenizer", "text_to_token", "interleave")
            for key in found[part]
            if key.startswith("wer") and not key.endswith("_n")
        ]
        assert len(rates) == 12
        for part, key in rates:
            assert (found[part][key] is None) == (found[part][f"{key}_n"] is None)


def test_each_figure_of_the_tokenizer_is_of_its_own_test_set(build):
    assert build("full")["speech_tokenizer"] == {
        "wer_vq": 0.03, "wer_held_out_voice": 0.07, "wer_windows": 0.05,
        "wer_vq_n": 300, "wer_held_out_voice_n": 300, "wer_windows_n": 300,
        "wer_no_vq": 0.01, "wer_no_vq_held_out_voice": 0.03, "wer_no_vq_windows": 0.02,
        "wer_no_vq_n": 300, "wer_no_vq_held_out_voice_n": 300, "wer_no_vq_windows_n": 300,
        "codebook_usage": 0.3, "codebook_usage_held_out_voice": pytest.approx(0.7),
        "codebook_usage_windows": 0.5,
        "perplexity": 30, "perplexity_held_out_voice": pytest.approx(70), "perplexity_windows": 50,
        "num_codes": 512, "frame_rate_hz": 12.5,
    }  # fmt: skip
    without = build("demo")["speech_tokenizer"]
    assert without["wer_no_vq_held_out_voice"] is without["wer_no_vq_windows"] is None


def test_the_page_shows_every_test_set_and_what_was_rejected(build):
    shown = build_page(build("full"), documents=make_shown()["documents"])
    for text in (
        "<b>3.0%</b>held-out voice, the same recipe without the codebook",
        "<b>2.0%</b>word windows, the same recipe without the codebook",
        "<b>70%</b>of 512 codes in use, held-out voice",
        "<b>70</b>perplexity of the codes, held-out voice",
        "<b>17.1%</b>word errors, read back from 400 spans",
        "stayed text: 136 loop, 8 no_end.",
    ):
        assert text in shown


def test_a_page_of_a_text_tells_of_that_text():
    """StoryWorld's documents and facts were not what such a run read."""
    own = {"name": "your text", "documents": 100_000, "text_documents": 535}
    shown = build_page(make_report() | {"text": ["a.parquet"], "world": own})
    assert "535 documents" in shown
    assert "100,000 documents" not in shown
    assert "which your text replaced in this run: the model has not read them" in shown
    assert "the text corpus only" not in shown
    usual = build_page(make_report())
    assert "60,000 documents" in usual
    assert "the text corpus only" in usual


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
    bars = [("a", value, 0.0, "model") for value in (0.25, 0.5)]
    picture = charts.grouped_bars([("S→T", bars)], "label", {})
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
