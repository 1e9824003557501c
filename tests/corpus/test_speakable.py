"""What cannot be said is found, prose is left alone, numbers become words."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_speech.corpus import speakable
from megatron_speech.corpus.interleave import word_bounds
from megatron_speech.corpus.plan import PlanConfig, plan
from megatron_speech.corpus.spans import SpanConfig
from megatron_speech.corpus.speakable import Content, SpeakableConfig, numbers_in_words
from megatron_speech.errors import ConfigError

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
        ("你好世界。今天很好。", None),
    ],
)
def test_words_that_are_left(text, left):
    bounds = word_bounds(text)
    kept = Content(text).speakable(bounds)
    words = [text[a:b] for a, b in bounds[kept]]
    assert words == (left.split() if left else [text[a:b] for a, b in bounds])


PHRASES = {
    "Thai": "วันนี้อากาศดีมากเราจึงไปเดินเล่นที่สวนสาธารณะใกล้บ้านแล้วพบเพื่อนเก่าที่ไม่ได้เจอกันมานาน",
    "Khmer": "ថ្ងៃនេះអាកាសធាតុល្អណាស់ដូច្នេះយើងទៅដើរលេងនៅសួនច្បារក្បែរផ្ទះហើយបានជួបមិត្តចាស់",
    "Lao": "ມື້ນີ້ອາກາດດີຫຼາຍພວກເຮົາຈຶ່ງໄປຍ່າງຫຼິ້ນຢູ່ສວນສາທາລະນະໃກ້ບ້ານແລະພົບໝູ່ເກົ່າ",
    "Burmese": "ဒီနေ့ရာသီဥတုအရမ်းကောင်းတာကြောင့်အိမ်နားကပန်းခြံမှာလမ်းလျှောက်ထွက်ခဲ့ပါတယ်ကျွန်တော်တို့",
    "Tibetan": "དེ་རིང་གནམ་གཤིས་ཡག་པོ་འདུག་པས་ང་ཚོ་ཁྱིམ་གྱི་ཉེ་འགྲམ་གྱི་གླིང་གར་འཆམ་འཆམ་ལ་ཕྱིན་པ་ཡིན།",
    "Chinese": "今天天气很好所以我们去家附近的公园散步遇见了很久没有见面的老朋友" * 2,
}


@pytest.mark.parametrize("script", PHRASES)
def test_a_phrase_without_spaces_is_no_code(script):
    text = PHRASES[script]
    assert len(text) > 60
    assert Content(text).speakable(word_bounds(text)).all()


@pytest.mark.parametrize("word", ["QmFzZTY0" * 9, "═" * 70, "aé" * 40, "0x" + "ff" * 40])
def test_long_words_of_machines_are_code(word):
    assert not Content(word).speakable(word_bounds(word)).any()


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=' \n\tab1$`\\{}[]()|=_@/:."“”<>x^', max_size=60))
def test_any_text_has_its_stretches_inside(text):
    content = Content(text)
    assert all(0 <= start <= stop <= len(text) for start, stop, _ in content.unspeakable)
    assert {kind for _, _, kind in content.unspeakable} <= set(speakable.CONTENT_CLASSES)
    bounds = word_bounds(text)
    touched = [
        any(a < stop and start < b for a, b, _ in content.unspeakable) for start, stop in bounds
    ]
    assert content.speakable(bounds).tolist() == [not one for one in touched]


@pytest.mark.parametrize(
    ("text", "language", "said"),
    [
        ("on 3 May 1999", "en", "on three May nineteen ninety-nine"),
        ("the 21st & last", "en", "the twenty-first and last"),
        ("$5.20, 3.5% or -4", "en", "five dollars, twenty cents, three point five percent or minus"
         " four"),
        ("1,234,567 people", "en", "one million, two hundred and thirty-four thousand, five hundred"
         " and sixty-seven people"),
        ("v2 at 10:30, 1.2.3", "en", "v2 at 10:30, 1.2.3"),
        ("42 Tage", "de", "zweiundvierzig Tage"),
        ("9" * 40, "en", "9" * 40),
        ("$5, $100 or $1", "en", "five dollars, one hundred dollars or one dollar"),
        ("£20, £0.20, €1.01", "en", "twenty pounds, twenty pence, one euro, one cent"),
        ("$1.5 million of 3.5 billion", "en", "one point five million dollars of three point five"
         " billion"),
        ("0.5%, 12 % and -4", "en", "zero point five percent, twelve percent and minus four"),
        # read in several ways, or in none: left alone
        ("US$5, $2bn, $1.5, 5$, 5 €", "en", "US$5, $2bn, $1.5, 5$, 5 €"),
        ("pages 10-20, the 1990s, 007, 3/4", "en", "pages 10-20, the 1990s, 007, 3/4"),
        ("on 1/2/2020, 3.11.2, No. 1,5", "en", "on 1/2/2020, 3.11.2, No. 1,5"),
        ("call 555 1234", "en", "call 555 1234"),
        ("12.000 Leute, 10,5 Grad", "de", "12.000 Leute, 10,5 Grad"),
        ("am 3. Mai 1999 um 10:30", "de", "am 3. Mai 1999 um 10:30"),
        ("1 Tag, 21 Tage, 11 Tage, 50 %", "de", "1 Tag, 21 Tage, elf Tage, 50 %"),
        ("2 книги, 5 книг", "ru", "2 книги, пять книг"),
        ("1 casa, 200 euros", "es", "1 casa, doscientos euros"),
        ("80 francs en 1987", "fr", "quatre-vingts francs en mille neuf cent quatre-vingt-sept"),
    ],
)  # fmt: skip
def test_numbers_in_words(text, language, said):
    assert numbers_in_words(text, language) == said


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
