"""Pages: what is filled in is escaped, empty parts are left out, a missing value is an error."""

import re

import jinja2
import numpy as np
import pytest

from megatron_speech.pages import charts, read_back, render, setting

TEMPLATE = """
{% extends "base.html" %}
{% from "parts.html" import bars_table, card, row, settings_table, table %}
{% set title = name %}
{% macro empty() %}  {% endmacro %}
{% macro cells() %}
{% call table(["word", "count"], numbers=1) %}{{ row([name, 3], 1) }}{% endcall %}
{{ card("No picture", charts.line_chart([("a", "model", [])], "empty"), "is not shown") }}
{{ bars_table(bars) }}{{ settings_table(settings) }}
{% endmacro %}
{% set sections = [("none", "Nothing", empty()), ("some", "Something", cells())] %}
"""
BARS = [
    {"name": "a", "wanted": "≥ 1", "value": "2", "met": True},
    {"name": "b", "wanted": "≥ 1", "value": "0", "met": False},
]


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "some.html"
    path.write_text(TEMPLATE, encoding="utf-8")
    return path


def test_values_are_escaped_and_empty_parts_left_out(template):
    page = render(template, name="<b> & co", bars=BARS, settings={"lr_of": 0.0003, "on": {"x": 1}})
    assert "<title>&lt;b&gt; &amp; co</title>" in page
    assert '<td class="">&lt;b&gt; &amp; co</td><td class="n">3</td>' in page
    links = re.findall(r'href="#(\w+)"', page)
    assert links == re.findall(r'<section id="(\w+)"', page) == ["some"]
    assert "No picture" not in page
    assert "1 of 2" in page
    assert page.count("falls short") == 1
    assert '<td class="">lr of</td><td class="n">0.0003</td>' in page
    assert ":root {" in page
    assert "No targets apply here" in render(template, name="", bars=[], settings={})


def test_a_value_that_is_missing_is_an_error(template):
    with pytest.raises(jinja2.UndefinedError, match="bars"):
        render(template, name="a", settings={})


def test_what_was_misread_is_marked_and_escaped():
    marked = read_back("the <gold> boat", "The old boat.")
    assert marked == 'the <span class="wrong">&lt;gold&gt;</span> boat'
    assert read_back("", "The old boat.") == "(nothing)"


def test_settings_are_one_line():
    shown = [setting(value) for value in (12_345.678, 7, {"a": 0.25, "b": "c"}, [1])]
    assert shown == ["1.235e+04", "7", "a 0.25, b c", "[1]"]


def test_lengths_stand_beside_what_was_expected():
    picture = charts.length_histogram(
        np.array([0.25, 0.5]), "words", "Lengths", [0.5, 0.25], "Poisson(2)"
    )
    bars = [float(h) for h in re.findall(r'height="([\d.]+)" class="speech-fill"', picture)]
    dots = [float(y) for y in re.findall(r'cy="([\d.]+)"', picture)]
    assert bars[1] == pytest.approx(2 * bars[0], abs=0.02)
    assert dots[1] - dots[0] == pytest.approx(bars[0], abs=0.11)
    assert "Poisson(2)" in picture
    assert "circle" not in charts.length_histogram(np.zeros(1), "s", "Lengths")


def test_curves_are_smoothed_to_fewer_points():
    points = [(step, float(step % 2)) for step in range(1, 181)]
    smoothed = charts.smooth(points)
    assert len(smoothed) == 90
    assert {value for _, value in smoothed} == {0.5}
    assert charts.smooth([]) == []
