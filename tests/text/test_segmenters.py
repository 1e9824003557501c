"""Words of scripts without spaces, by the segmenters themselves."""

import json
import sys

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_speech.errors import ConfigError
from megatron_speech.interleaving.plan import PlanConfig, plan
from megatron_speech.interleaving.plan_folder import plan_path
from megatron_speech.interleaving.spans import SpanConfig
from megatron_speech.io.files import read_json
from megatron_speech.text import segmenters
from megatron_speech.text.segmenters import segmented_words, segmenter_name
from megatron_speech.text.words import word_bounds
from tests.interleaving.samples import make_vocab

CHINESE = "他昨天晚上在图书馆里看了三个小时的书，然后骑自行车回家。"


def words(text, language):
    return [text[start:stop] for start, stop in segmented_words(text, language)]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("zh", "他在图书馆看书。", "他 在 图书馆 看书。"),
        ("zh-CN", "他说：“你好，世界！”", "他 说： “你好， 世界！”"),
        ("zh", "用iconv(1)来转换 (第3章)", "用 iconv(1) 来 转换 (第 3 章)"),
        ("zh", "他在图书\n   馆看书。", "他 在 图书馆 看书。"),
        ("zh_TW", "我們今天去看書", "我們 今天 去 看書"),
        ("ja", "今日は「友達」と公園へ行きました。", "今日は 「友達」と 公園へ 行きました。"),
        ("th", "ฝนตก หน้าบ้าน", "ฝนตก หน้า บ้าน"),
        ("zh", "only words", "only words"),
    ],
)
def test_words(language, text, expected):
    assert [word.replace("\n   ", "") for word in words(text, language)] == expected.split()


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="a1 \n，。（）“”你们图书馆はテท้า.-", max_size=30))
def test_every_character_but_space_is_in_one_word(text):
    for language in ("zh", "ja"):
        bounds = segmented_words(text, language)
        assert "".join("".join(words(text, language)).split()) == "".join(text.split())
        assert (bounds[1:, 0] >= bounds[:-1, 1]).all()
        assert (bounds[:, 1] > bounds[:, 0]).all()


def test_a_language_with_spaces_and_a_missing_package_are_refused(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"no segmenter for language 'en' .*ja, th, zh"):
        segmenter_name("en")
    monkeypatch.setitem(sys.modules, "budoux", None)
    segmenters._segmenter.cache_clear()
    with pytest.raises(ConfigError, match=r"needs the package budoux .*\[segmenters\]"):
        segmenter_name("th")
    segmenters._segmenter.cache_clear()
    with pytest.raises(ConfigError, match="not for --unit token"):
        PlanConfig(
            input=("a",), vocab=tmp_path, output=tmp_path, language="zh",
            segment_words=True, spans=SpanConfig(unit="token"),
        )  # fmt: skip


def test_no_span_of_a_plan_begins_or_ends_inside_a_word(tmp_path):
    make_vocab(tmp_path / "base").save_pretrained(tmp_path / "vocab")
    lines = [json.dumps({"id": str(n), "text": CHINESE * 5}) + "\n" for n in range(20)]
    (tmp_path / "zh.jsonl").write_text("".join(lines), encoding="utf-8")
    cut = {}
    for segment in (False, True):
        output = tmp_path / str(segment)
        config = PlanConfig(
            input=(str(tmp_path / "zh.jsonl"),), vocab=tmp_path / "vocab", output=output, tasks=1,
            language="zh", segment_words=segment, spans=SpanConfig(mean_span_words=4),
        )  # fmt: skip
        plan(config)
        rows = pq.read_table(plan_path(output, 0)).to_pylist()
        edges = {edge for pair in segmented_words(CHINESE * 5, "zh").tolist() for edge in pair}
        spans = [
            pair
            for row in rows
            for pair in zip(row["character_start"], row["character_stop"], strict=True)
        ]
        assert len(spans) > 50
        cut[segment] = sum(not edges.issuperset(pair) for pair in spans)
        assert read_json(output / "settings.json").get("words") == (
            segmenter_name("zh") if segment else None
        )
    assert cut[False] > 20
    assert cut[True] == 0
    with pytest.raises(ConfigError, match=r"other settings \(words\)"):
        plan(PlanConfig(**{**vars(config), "segment_words": False}))


def test_without_a_segmenter_characters_are_words():
    assert len(word_bounds("图书馆")) == 3
