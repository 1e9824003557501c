"""What cannot be said is found, prose is left alone."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_speech.errors import ConfigError
from megatron_speech.interleaving.plan import PlanConfig, plan
from megatron_speech.interleaving.spans import SpanConfig
from megatron_speech.text import speakable
from megatron_speech.text.speakable import Content, SpeakableConfig
from megatron_speech.text.words import word_bounds

SAMPLES = Path(__file__).with_name("content_samples.jsonl")
ROWS = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_samples_have_the_content_they_were_written_for(row):
    content, bounds = Content(row["text"]), word_bounds(row["text"])
    kinds = Counter(content.kind(int(start), int(stop)) for start, stop in bounds)
    assert kinds[row["content"]] >= (len(bounds) if row["content"] == "prose" else 1)
    spoken = {"prose", "dialogue", "lists", "numbers"}
    if row["content"] in spoken:
        assert content.speakable(bounds).all(), content.unspeakable
    else:
        assert not content.speakable(bounds).all()
        assert kinds.keys() <= {"prose", row["content"]}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("see https://a.b/c?d=1 now", "see now"),
        ("write to me@x.org today", "write to today"),
        ("set max_width and getName here", "set and here"),
        ("so y = x or not", "so or not"),
        ("before\n```\nany words here\n```\nafter", "before after"),
        ("the set $x^2 + y$ is", "the set is"),
        ("costs $5 or $6 and/or more", None),
        ("He left (quickly); she stayed, and so on: fine!", None),
        ("Call 555 1234 at 10:30 on 1/2/2020 - it is No. 3.", None),
        ("It was _his_ *very own* idea -- **mine** came later...", None),
        ("The ship--a large one--left at 5.30; -5 degrees, e.g. in May (see above).", None),
        ("'Sh! Be quiet,' he said", None),
        (
            "Type ls(1) or open() or print('x') but keep file(s) and colo(u)r",
            "Type or or but keep file(s) and colo(u)r",
        ),
        ("run it with --all -v today", "run it with today"),
        (
            "read setup.py and ../README.txt and os.path e.g. now, Mr.Brown",
            "read and and e.g. now, Mr.Brown",
        ),
        ("the glyph U+22FA at 10.0.0.12 in version 1.2.3", "the glyph at in version 1.2.3"),
        ("the set REGISTRY\\_FILE of commit 2e285e7803", "the set of commit"),
        ("so::\n\n  some words\n\n  and more\nhere again", "here again"),
        (
            ".. note::\n   This is said\n.. code-block:: c\n   but not this\nand this",
            "This is said and this",
        ),
        (".. module:: a\n   :synopsis: a word\nafter", "a word after"),
        ("needs gnu >= 3 or $name and and/or a/b-c here", "needs or and and/or a/b-c here"),
        ("in /etc or “/etc/x” and a/b-c-d\n[note]: see", "in or and see"),
        ("draws\nunsigned int width,\nand the i\\ th `name\nhere", "draws and the th here"),
        ("Tabla 1\n+-----+--+\nuno, véase gdm3(1) y xdg-open(1x).", "Tabla 1 uno, véase y"),
        ("so <!-- one\ntwo -->\nthree", "so three"),
        ("before\n>>> one two\nthree\n\nafter", "before after"),
        ("Title\n=====\none\n***\ntwo", "Title one two"),
        ("你好世界。今天很好。", None),
        ("ฝนตกหนักจนถนนหน้าบ้านมีน้ำท่วมสูงพวกเราจึงต้องอยู่ในบ้านและฟังเสียงฝนทั้งคืน", None),
        ("ភ្លៀងធ្លាក់ខ្លាំងណាស់ហើយយើងត្រូវនៅក្នុងផ្ទះពេញមួយយប់ជាមួយគ្នាដោយស្តាប់សំឡេងភ្លៀង", None),
        ("ຝົນຕົກແຮງຫຼາຍພວກເຮົາຈຶ່ງຕ້ອງຢູ່ໃນເຮືອນແລະຟັງສຽງຝົນຕະຫຼອດຄືນນັ້ນກັບຄອບຄົວ", None),
        ("မိုးသည်းထန်စွာရွာသောကြောင့်ကျွန်ုပ်တို့သည်တစ်ညလုံးအိမ်ထဲတွင်မိုးသံကိုနားထောင်ခဲ့ကြသည်", None),
        ("ཆར་པ་ཆེན་པོ་བབས་པས་ང་ཚོ་མཚན་གང་ཁང་པའི་ནང་དུ་བསྡད་ནས་ཆར་པའི་སྒྲ་ལ་ཉན་པ་ཡིན།", None),
    ],
)
def test_words_that_are_left(text, left):
    bounds = word_bounds(text)
    kept = Content(text).speakable(bounds)
    words = [text[a:b] for a, b in bounds[kept]]
    assert words == (left.split() if left else [text[a:b] for a, b in bounds])


def test_the_source_of_a_manual_page_is_code_from_end_to_end():
    page = next(row["text"] for row in ROWS if row["text"].startswith(".TH"))
    content, bounds = Content(page), word_bounds(page)
    assert not content.speakable(bounds).any()
    assert {content.kind(start, stop) for start, stop in bounds.tolist()} == {"code"}


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=' \n\tab1$`\\{}[]()|=_@/:."“”<>x^-*+', max_size=60))
def test_any_text_has_its_stretches_inside(text):
    content = Content(text)
    assert all(0 <= start <= stop <= len(text) for start, stop, _ in content.unspeakable)
    assert {kind for _, _, kind in content.unspeakable} <= set(speakable.CONTENT_CLASSES)
    bounds = word_bounds(text)
    touched = [
        any(a < stop and start < b for a, b, _ in content.unspeakable) for start, stop in bounds
    ]
    assert content.speakable(bounds).tolist() == [not one for one in touched]


def test_a_language_without_numbers_is_refused(tmp_path):
    settings = SpeakableConfig(spoken_numbers=True)
    with pytest.raises(ConfigError, match="does not know language 'xx'"):
        PlanConfig(input=("a",), vocab=tmp_path, output=tmp_path, language="xx", speakable=settings)


def test_a_plan_never_asks_for_what_cannot_be_said(world, tmp_path):
    counts = {}
    for skip in (True, False):
        config = PlanConfig(
            input=(str(SAMPLES),),
            vocab=world / "vocab",
            output=tmp_path / str(skip),
            tasks=1,
            spans=SpanConfig(eta=0.8, mean_span_words=4),
            speakable=SpeakableConfig(skip_unspeakable=skip, spoken_numbers=skip),
        )
        counts[skip] = plan(config)
        table = pq.read_table(tmp_path / str(skip) / "requests")
        kinds = Counter(table["content"].to_pylist())
        assert min(kinds[name] for name in ("prose", "dialogue", "numbers", "lists")) > 0
        silent = {"code", "maths", "tables", "addresses"}
        assert kinds.keys().isdisjoint(silent) if skip else kinds.keys() >= silent
        digits = [any(c.isdigit() for c in text) for text in table["text"].to_pylist()]
        assert np.mean(digits) < 0.02 if skip else np.mean(digits) > 0.1
        position = table["position"].to_numpy()
        assert position.min() >= 0
        assert position.max() < 1
    assert counts[True]["text_tokens"] == counts[False]["text_tokens"]
    assert counts[True]["unspeakable_words"] > 50 > counts[False]["unspeakable_words"] == 0
