"""Which texts the demo reads and interleaves: its own world's, or the user's."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.quickstart import corpora
from examples.quickstart.runner import Demo
from examples.quickstart.sizes import SIZES
from megatron_speech.errors import DataError


@pytest.fixture
def demo(tmp_path):
    size = replace(SIZES["smoke"], interleaved_documents=3, most_text_words=400)
    demo = Demo(size=size, output=tmp_path / "run", machine={"precision": "fp32"})
    folder = demo.path("storyworld", "corpus")
    folder.mkdir(parents=True)
    texts = [f"Story number {n}." for n in range(10)]
    table = pa.table({"id": [f"train-{n}" for n in range(10)], "text": texts})
    pq.write_table(table, folder / "train.parquet")
    return demo


def read(path):
    return pq.read_table(path).to_pylist()


def write_lines(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_the_world_is_read_as_it_is(demo):
    assert corpora.choose_text(demo) == {"name": "StoryWorld", "text_documents": 10}
    assert corpora.text_path(demo, "train") == demo.path("storyworld", "corpus", "train.parquet")
    chosen = read(corpora.text_path(demo, "interleaved"))
    assert [row["id"] for row in chosen] == ["train-0", "train-1", "train-2"]


def test_the_users_text_replaces_it(demo, tmp_path):
    source = tmp_path / "mine.jsonl"
    write_lines(source, [f"My own text {n} has seven words." for n in range(100)])
    own = replace(demo, text=(str(source),))
    facts = corpora.choose_text(own)
    expected = {"name": "your text", "text_documents": 58, "text_rejected": {}}
    assert facts == expected  # 400 words, rounded up
    train, valid = (read(corpora.text_path(own, part)) for part in ("train", "valid"))
    assert len(train) + len(valid) == 58
    assert not {row["id"] for row in train} & {row["id"] for row in valid}
    spoken = read(corpora.text_path(own, "interleaved"))
    assert len(spoken) == 18  # 3 documents of 40 words
    assert len(corpora.vocabulary_inputs(own)) == 2


@pytest.mark.parametrize("texts", [[], ["", "  "], ["one document only"]])
def test_text_that_is_not_enough(demo, tmp_path, texts):
    source = tmp_path / "mine.jsonl"
    write_lines(source, texts)
    with pytest.raises(DataError, match=r"mine\.jsonl"):
        corpora.choose_text(replace(demo, text=(str(source),)))


def test_a_missing_column_is_named(demo, tmp_path):
    source = tmp_path / "mine.jsonl"
    source.write_text('{"id": 1, "story": "Once."}\n' * 3)
    table = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"id": ["a"], "story": ["Once."]}), table)
    with pytest.raises(DataError, match="has no column 'text'; it has id, story"):
        corpora.choose_text(replace(demo, text=(str(table),)))
    with pytest.raises(DataError, match=r"no_such_key, the first: 'text' is missing; keys: \['id"):
        corpora.choose_text(replace(demo, text=(str(source),)))


def test_text_that_is_not_there(demo, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        corpora.choose_text(replace(demo, text=(str(tmp_path / "none.jsonl"),)))


def test_held_out_texts_are_split_by_kind(tmp_path):
    table = pa.table({"id": ["a", "b"], "text": ["A b.", "b"], "kind": ["sentence", "window"]})
    pq.write_table(table, tmp_path / "test.parquet")
    corpora.split_test_texts(tmp_path)
    assert [row["id"] for row in read(tmp_path / "sentences.parquet")] == ["a"]
    assert [row["id"] for row in read(tmp_path / "windows.parquet")] == ["b"]
