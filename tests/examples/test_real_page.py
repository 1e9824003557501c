"""The page of the demo on real models: its figures are computed right, and it is whole."""

import json
import re
from dataclasses import replace

import pytest

from examples.real.report import _bars, build_page, build_report, headline, text_loss_rise
from examples.real.run import TOPIC, RealDemo
from examples.real.sizes import DEMO
from megatron_speech.pages import charts
from tests.evaluation.fakes import SENTENCES, write_speech
from tests.examples.real_report import make_report, make_shown
from tests.examples.sample_report import share
from tests.examples.test_demo_report import Reader


def test_headline_arithmetic():
    found = headline(make_report()["evaluation"])
    assert found["gain"] == pytest.approx(0.14)
    expected = (share(0.66, 500)["stderr"] ** 2 + share(0.52, 500)["stderr"] ** 2) ** 0.5
    assert found["gain_stderr"] == pytest.approx(expected)
    assert found["above_chance_stderrs"] == pytest.approx(0.16 / (0.25 / 500) ** 0.5)
    assert found["base"]["n"] == 500


def test_the_page_tells_the_loss_of_text_to_token():
    assert "2.72" in build_page(make_report(), **make_shown())


def test_bars_judge_what_is_asked():
    report = make_report()
    met = {bar["name"]: bar["met"] for bar in _bars(report)}
    assert all(met.values()), met
    assert not any("prompts-fr" in name for name in met), "held against a Whisper's own texts"
    report["evaluation"]["model"]["text_loss"] = 3.9 * 1.04
    report["speech_tokenizer"]["held_out"]["codebook_usage"] = 0.79
    report["speech_tokenizer"]["sets"]["prompts-en"]["wer_codes"] = 0.14
    short = [bar["name"] for bar in _bars(report) if not bar["met"]]
    assert len(short) == 3
    assert text_loss_rise(report["evaluation"]) == pytest.approx(0.04)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_page_is_whole_and_self_contained():
    page = build_page(make_report(), **make_shown())
    reader = read(page)
    assert not reader.problems
    assert not reader.open
    assert all(reference.startswith(("#", "data:")) for reference in reader.references)
    assert not re.search(r"https?://|@import|<script", page)
    assert "<late>" not in page
    assert "espeak-ng saying the words" in page
    assert page.count("Figures are of Base &lt;small&gt;, dequantised from Q4_1.") == 2
    assert "564 recordings" in page
    assert page.count("<audio") == 3
    assert len(page) < 3_000_000


@pytest.mark.parametrize(
    "part", ["recordings", "beginnings", "passage", "curves", "samples", "people"]
)
def test_page_does_without_what_could_not_be_had(part):
    report, shown = make_report(), make_shown()
    if part == "samples":
        report["samples"] = []
    elif part == "people":
        sets = report["speech_tokenizer"]["sets"]
        kept = {name: sets[name] for name in sets if name.startswith("espeak")}
        report["recordings"] = {}
        report["speech_tokenizer"] = {**report["speech_tokenizer"], "sets": kept}
    else:
        del shown[part]
    page = build_page(report, **shown)
    reader = read(page)
    assert not reader.problems
    targets = {reference[1:] for reference in reader.references if reference.startswith("#")}
    assert all(f'id="{target}"' in page for target in targets)


def test_the_title_claims_only_what_was_found():
    report = make_report()
    assert "learns to listen" in build_page(report)
    evaluation = {**report["evaluation"], "model": report["evaluation"]["control"]}
    report |= {"evaluation": evaluation, "headline": headline(evaluation)}
    assert "does not listen yet" in build_page(report)


def test_report_is_made_of_what_the_stages_found(tmp_path):
    told = make_report()
    arms = told["evaluation"]
    size = replace(DEMO, language_model_steps=4, points=2)
    demo = RealDemo(size=size, output=tmp_path, machine={}, whisper="openai/whisper-base")
    found = {"whisper": "/x/snapshots/abc", "base": "/x/smollm2", "judge": None, "notes": ["n"]}
    done = {
        "materials": found,
        "speech": told["text"],
        "recordings": told["recordings"],
        "speech_tokenizer": {"validation": []},
        "codes": told["speech_tokenizer"],
        "text_to_token": told["text_to_token"],
        "interleaving": told["interleave"],
        "base": told["base"],
        "model": {"tokens": size.tokens},
        "samples": {"shown": told["samples"]},
        "evaluation-base": {"0": arms["base"]},
        "evaluation-model": {"2": arms["control"], "4": arms["model"]},
        "evaluation-control": {"2": arms["control"], "4": arms["control"]},
    }
    write_speech(tmp_path / "codes" / "items" / "shard.parquet", SENTENCES)
    report = build_report(demo, done, {"seconds": {"model": 9.0}, "seconds_in_all": 9.0})
    assert report["speech_tokenizer"]["held_out"]["codes"] == sum(map(len, SENTENCES))
    assert report["headline"] == told["headline"]
    assert report["materials"]["whisper"] == "openai/whisper-base", "the id, not a cache's folder"
    assert report["materials"]["base"] == "smollm2"
    heard = [point["cloze"][TOPIC]["s2t"]["accuracy"] for point in report["curve"]["model"]]
    assert heard == [0.5, 0.52, 0.66]
    tokens = [point["tokens"] for point in report["curve"]["model"]]
    assert tokens == [0, size.tokens // 2, size.tokens]
    assert json.loads(json.dumps(report))["curve"] == report["curve"]
    assert "learns to listen" in build_page(report)


def test_a_curve_has_whiskers_a_line_of_chance_and_fixed_bounds():
    series = [("arm", "model", [(0, 50, 2), (10, 60, 3), (20, 95, 3)]), ("none", "control", [])]
    picture = charts.line_chart(series, "Curve", unit="tokens", bounds=(40, 80), chance=50)
    whiskers = re.findall(r'<line x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)" '
                          'class="curve model"/>', picture)  # fmt: skip
    assert len(whiskers) == 3
    heights = [abs(float(low) - float(high)) for _, low, _, high in whiskers]
    assert heights[1] == pytest.approx(1.5 * heights[0], abs=0.2)
    assert heights[2] == 0, "outside the bounds"
    assert 'class="chance"' in picture
    assert "20 tokens" in picture
    assert "none" not in picture
    assert 'class="chance"' not in charts.line_chart(series, "Curve")
