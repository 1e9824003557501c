"""Benchmarks in another layout, without audio, seen in training, or broken."""

import json

import numpy as np
import pytest

from megatron_speech.data.code_shards import CodeRecord, CodeShardInfo, write_code_shard
from megatron_speech.errors import ConfigError, DataError
from megatron_speech.evaluation.benchmarks import sound
from megatron_speech.evaluation.benchmarks.config import BenchmarkConfig
from megatron_speech.evaluation.benchmarks.questions import (
    read_questions,
)
from megatron_speech.evaluation.benchmarks.registry import BENCHMARKS
from megatron_speech.evaluation.benchmarks.run import describe
from megatron_speech.evaluation.benchmarks.stories import read_spoken_stories
from megatron_speech.evaluation.run import EvaluateConfig, evaluate_model
from megatron_speech.text_to_token.engines import Generation
from tests.evaluation.benchmark_world import ALL, story_rows, write_csv
from tests.evaluation.benchmark_world import run as run
from tests.evaluation.unigram import FINGERPRINT, write_wav
from tests.evaluation.unigram import scripted as scripted


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_a_folder_of_another_layout_says_what_was_expected(name, tmp_path):
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError) as caught:
        BENCHMARKS[name].read(tmp_path, None)
    assert BENCHMARKS[name].layout.split("(")[0].strip()[:40] in str(caught.value)
    assert "it holds notes.md" in str(caught.value)
    with pytest.raises(DataError, match="is no folder"):
        BENCHMARKS[name].read(tmp_path / "nowhere", None)


def test_a_wav_without_its_partner(tmp_path):
    write_wav(tmp_path / "0_1_correct.wav", [1])
    with pytest.raises(DataError, match=r"0_1_correct\.wav has no 1_1_incorrect\.wav"):
        read_spoken_stories(tmp_path, None)


def test_items_in_training_text_are_counted_and_left_out_beside(run, tmp_path):
    rows = story_rows()
    rows[1] |= {"InputSentence1": "One two three four five six seven eight nine ten."}
    write_csv(tmp_path / "spring2016_test.csv", rows)
    text = "Then: two three four, five six SEVEN eight nine! And on."
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": text}) + "\n")
    found, report = run("storycloze", tmp_path, directions=("t2t",),
                        contamination_against=(str(tmp_path / "train.jsonl"),))  # fmt: skip
    assert (report["contamination"]["seen"], report["contamination"]["compared"]) == (1, 2)
    assert report["contamination"]["examples"] == [rows[1]["InputSentence1"]]
    assert found["all", "t2t"].headline.accuracy == 0.5
    unseen = found["all", "t2t"].details["unseen"]["total"]
    assert (unseen["accuracy"], unseen["n"]) == (1.0, 1)
    (line,) = [line for line in describe({"storycloze": report}) if "occur in" in line]
    assert "1 of 2 items" in line


class Speaker:
    """Says a letter as its code; never ends what has a z."""

    num_codes, speech_tokenizer, asked = 16, FINGERPRINT, []

    def generate(self, texts, seeds, most_codes, advance):
        self.asked += texts
        letters = [[ord(c) % 16 for c in text if c.isalpha()] for text in texts]
        assert all(most_codes(t) >= len(c) for t, c in zip(texts, letters, strict=True))
        return [
            Generation(np.array(codes), "z" not in text, 0)
            for text, codes in zip(texts, letters, strict=True)
        ]


def test_what_has_no_audio_is_spoken_and_said_so(run, tmp_path, monkeypatch):
    speaker = Speaker()
    monkeypatch.setattr(sound, "make_engine", lambda model, config: speaker)
    rows = story_rows()
    rows[1]["RandomFifthSentenceQuiz1"] = "a zoo"
    write_csv(tmp_path / "test.csv", rows)
    found, report = run("storycloze", tmp_path, text_to_token=tmp_path, tokenizer=False)
    assert {direction for _, direction in found} == set(ALL)
    assert {direction: result.headline.n for (_, direction), result in found.items()} == {
        "t2t": 2, "s2t": 2, "s2s": 1, "t2s": 1,
    }  # fmt: skip
    assert report["directions"]["s2s"] == {
        "items": 1, "left_out": 1, "codes": {"spoken": 11, "unspoken": 1},
    }  # fmt: skip
    assert len(speaker.asked) == 12  # nothing is spoken once for each direction
    assert any(
        line.startswith("storycloze s2s: 11 texts without audio were spoken")
        for line in describe({"storycloze": report})
    )
    speaker.num_codes = 32
    with pytest.raises(DataError, match="--text-to-token has 32 codes"):
        run("storycloze", tmp_path, text_to_token=tmp_path, tokenizer=False)


def test_codes_of_other_units_are_found_by_the_end_of_their_ids(run, tmp_path):
    for name, codes in (("0_1_correct", [1]), ("1_1_incorrect", [2])):
        write_wav(tmp_path / "tSC" / f"{name}.wav", codes)
    info = CodeShardInfo(frame_rate_hz=50.0, num_codes=16, tokenizer_fingerprint="foreign")
    records = [CodeRecord(id=f"data_tSC_{name}", codes=np.array(codes))
               for name, codes in (("0_1_correct", [9]), ("1_1_incorrect", [3]))]  # fmt: skip
    write_code_shard(tmp_path / "codes" / "a.parquet", records, info)
    found, report = run(
        "topic-storycloze", tmp_path / "tSC", speech=[tmp_path / "codes"], tokenizer=False
    )
    assert found["all", "s2s"].headline.accuracy == 0.0
    assert report["directions"]["s2s"]["codes"] == {"shards": 2}


def test_names_paths_and_what_is_missing(run, tmp_path):
    with pytest.raises(ConfigError, match="one path for each name"):
        BenchmarkConfig(benchmark=("sblimp",))
    with pytest.raises(ConfigError, match="no benchmark 'chess'; there are storycloze"):
        run("chess", tmp_path)
    write_wav(tmp_path / "0_1_correct.wav", [1])
    write_wav(tmp_path / "1_1_incorrect.wav", [2])
    with pytest.raises(
        ConfigError, match=r"give --speech-tokenizer to encode its audio or --speech"
    ):
        run("topic-storycloze", tmp_path, tokenizer=False)


def test_files_of_a_benchmark_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "questions.csv").write_text('question,answer\n"who,Rome\n')
    with pytest.raises(DataError, match=r"questions\.csv is no CSV table"):
        read_questions(tmp_path, None)
    for part in ("mutual", "correct", "incorrect"):
        write_wav(tmp_path / f"1_{part}.wav", [1])
    (tmp_path / "1_mutual.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"1_mutual\.txt is not UTF-8"):
        read_spoken_stories(tmp_path, None)
    row = {"question_text": "which", "voice_id": 1, "answer": 0, "subject": "law"}
    (tmp_path / "law.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "few_shot_prompts.json").write_text(json.dumps({"law": {"beginning": "Listen."}}))
    (tmp_path / "questions.csv").unlink()
    with pytest.raises(DataError, match=r"few_shot_prompts\.json: 'law' needs"):
        BENCHMARKS["speech-mmlu"].read(tmp_path, None)


def test_names_folders_and_devices_are_looked_at_before_the_model_is_loaded(tmp_path):
    given = {"model": tmp_path / "none", "output": tmp_path / "out.json"}

    def published(name):
        return BenchmarkConfig(benchmark=(name,), benchmark_path=(tmp_path / "away",))

    with pytest.raises(ConfigError, match="no benchmark 'sblimpp'"):
        evaluate_model(EvaluateConfig(**given, published=published("sblimpp")))
    with pytest.raises(DataError, match=r"away \(--benchmark-path of sblimp\) does not exist"):
        evaluate_model(EvaluateConfig(**given, published=published("sblimp")))
    with pytest.raises(ConfigError, match="no evaluation task 'asrr'"):
        evaluate_model(EvaluateConfig(**given, tasks=("asrr",)))
    with pytest.raises(ConfigError, match="--device banana cannot be used"):
        evaluate_model(EvaluateConfig(**given, tasks=("asr",), device="banana"))
