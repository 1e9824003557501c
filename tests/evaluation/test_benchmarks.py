"""Miniatures of published benchmarks, laid out as they are on disks, against figures by hand."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_speech.data.code_shards import CodeRecord, CodeShardInfo, write_code_shard
from megatron_speech.errors import DataError
from megatron_speech.evaluation.benchmarks.questions import (
    answers_of,
    exist_match,
    read_questions,
    words_of,
)
from megatron_speech.evaluation.benchmarks.stories import read_spoken_stories
from tests.evaluation.benchmark_world import ALL, shares, story_rows, wav_bytes, write_csv
from tests.evaluation.benchmark_world import run as run
from tests.evaluation.unigram import FINGERPRINT, unigram, write_wav
from tests.evaluation.unigram import scripted as scripted


def test_topic_storycloze_of_twist(run, tmp_path):
    """Right at an even number, wrong at the next; the published rule is the mean of a token."""
    files = {
        "0_11_correct": [1, 1], "1_11_incorrect": [4, 4],  # right by mean and by sum
        "2_7_correct": [2, 2, 2, 2], "3_7_incorrect": [3],  # by mean alone: 8/5 < 3/2 is false
        "4_9_correct": [5, 5], "5_9_incorrect": [0, 0],  # wrong
        "10_3_correct": [6], "11_3_incorrect": [6],  # a tie
    }  # fmt: skip
    for name, codes in files.items():
        write_wav(tmp_path / "tSC" / f"{name}.wav", codes)
    found, report = run("topic-storycloze", tmp_path / "tSC")
    # means over codes and the end: 2/3 8/3 | 8/5 3/2 | 10/3 0 | 3 3; sums 2 8 | 8 3 | 10 0 | 6 6
    assert shares(found["all", "s2s"]) == {"per_token": 1.5 / 4, "total": 1.5 / 4}
    assert (found["all", "s2s"].rule, found["all", "s2s"].headline.n) == ("per_token", 4)
    assert set(found) == {("all", "s2s")}
    assert report["not_evaluated"] == {"t2t": "0_11_correct has audio and no text"}
    assert report["directions"]["s2s"]["codes"] == {"audio": 8}
    assert report["contamination"] == "not compared"
    assert {"s2s", "s2t"} <= {row["direction"] for row in report["published"]}


def test_the_mean_and_the_sum_may_differ(run, tmp_path):
    write_wav(tmp_path / "0_1_correct.wav", [2, 2, 2, 2, 2, 2])
    write_wav(tmp_path / "1_1_incorrect.wav", [4, 4])
    found, _ = run("spoken-storycloze", tmp_path)
    # 12/7 < 8/3, but 12 > 8
    assert shares(found["all", "s2s"]) == {"per_token": 1.0, "total": 0.0}


def test_story_order_is_by_number(tmp_path):
    for number in (10, 2, 0):
        write_wav(tmp_path / f"{number}_5_correct.wav", [1])
        write_wav(tmp_path / f"{number + 1}_5_incorrect.wav", [1])
    assert [pair.id.split("_")[0] for pair in read_spoken_stories(tmp_path, None)] == [
        "0",
        "2",
        "10",
    ]


@pytest.fixture
def many_voices(tmp_path):
    folder = tmp_path / "cross"
    parts = {"mutual": ("bbb", [1, 1]), "correct": ("c", [2]), "incorrect": ("h", [7, 7])}
    for voice, shift in (("p1", 0), ("p2", 1)):
        for part, (text, codes) in parts.items():
            write_wav(folder / voice / f"story_{part}.wav", [code + shift for code in codes])
            (folder / voice / f"story_{part}.txt").write_text(text + "\n")
    return folder


def test_storycloze_of_many_voices_in_every_direction(run, many_voices):
    """Two stories of one name in two folders; texts are equal, codes are not."""
    found, report = run("spoken-storycloze", many_voices)
    assert {direction for _, direction in found} == set(ALL)
    assert all(result.headline.n == 2 for result in found.values())
    # without a context the endings are as likely: what it adds is nothing
    assert shares(found["all", "s2t"]) == {
        "total": 1.0, "per_token": 1.0, "pmi": 0.5, "whole_per_token": 1.0,
    }  # fmt: skip
    assert report["directions"]["s2s"]["codes"] == {"audio": 6}


def test_storycloze_as_text(run, tmp_path):
    write_csv(tmp_path / "cloze_test_test__spring2016.csv", story_rows())
    write_csv(tmp_path / "cloze_test_val__spring2016.csv", story_rows()[:1])
    found, report = run("storycloze", tmp_path, directions=("t2t", "s2t"), tokenizer=False)
    assert shares(found["all", "t2t"])["total"] == 0.5  # b, a, d, c are likelier than w, o, y, u
    assert found["all", "t2t"].headline.n == 2
    assert report["not_evaluated"].keys() == {"s2t"}
    assert "--text-to-token" in report["not_evaluated"]["s2t"]
    found, _ = run("storycloze", tmp_path, directions=("t2t",), benchmark_split="val")
    assert found["all", "t2t"].headline.accuracy == 1.0


def test_storycloze_without_answers_is_refused(run, tmp_path):
    write_csv(tmp_path / "winter2018.csv", story_rows(right=""))
    with pytest.raises(DataError, match="expected 1 or 2; the sets of 2018"):
        run("storycloze", tmp_path)


def gold(kind):
    names = {"lexical": "frequency,word,phones,length", "syntactic": "type,subtype,transcription"}
    return ["filename,id,voice," + names[kind] + ",correct"]


def test_swuggy_of_zerospeech(run, tmp_path):
    """Voices of a word are averaged before words are; words with a frequency are a part."""
    folder, lines = tmp_path / "lexical" / "dev", gold("lexical")
    words = [
        ("w1", "1", "A", 12, "brick", [1], 1), ("n1", "1", "A", 12, "", [3], 0),
        ("w2", "1", "B", 12, "brick", [4], 1), ("n2", "1", "B", 12, "", [2], 0),
        ("w3", "2", "A", 0, "dax", [1], 1), ("n3", "2", "A", 0, "", [2], 0),
    ]  # fmt: skip
    for name, item, voice, frequency, word, codes, right in words:
        lines.append(f"{name},{item},{voice},{frequency},{word},x,5,{right}")
        write_wav(folder / f"{name}.wav", codes)
    (folder / "gold.csv").write_text("\n".join(lines) + "\n")
    found, _ = run("swuggy", tmp_path)
    # word 1: right in one voice of two; word 2: right
    assert found["all", "s2s"].headline.accuracy == 0.75
    assert (found["in vocabulary", "s2s"].headline.accuracy, found["all", "s2s"].headline.n) == (
        0.5,
        2,
    )


def test_sblimp_of_zerospeech(run, tmp_path):
    folder, lines = tmp_path / "syntactic" / "dev", gold("syntactic")
    sentences = [
        ("a", "1", "agreement", "dogs eat", [1, 1], 1),
        ("b", "1", "agreement", "wogs eat", [2, 2], 0),
        ("c", "1", "ellipsis", "zoo", [9], 1),
        ("d", "1", "ellipsis", "abba", [2], 0),
    ]  # fmt: skip
    for name, item, kind, text, codes, right in sentences:
        lines.append(f"{name},{item},v,{kind},sub,{text},{right}")
        write_wav(folder / f"{name}.wav", codes)
    (folder / "gold.csv").write_text("\n".join(lines) + "\n")
    found, _ = run("sblimp", tmp_path)
    accuracy = {place: result.headline.accuracy for place, result in found.items()}
    assert accuracy == {
        ("all", "s2s"): 0.5, ("agreement", "s2s"): 1.0, ("ellipsis", "s2s"): 0.0,
        ("all", "t2t"): 0.5, ("agreement", "t2t"): 1.0, ("ellipsis", "t2t"): 0.0,
    }  # fmt: skip
    (folder / "gold.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match="1 right and 0 wrong"):
        run("sblimp", tmp_path)


def test_salmon(run, tmp_path):
    for number, (right, wrong) in enumerate([([1], [2]), ([5], [2]), ([3], [3])]):
        write_wav(tmp_path / "rir_consistency" / f"sample_{number}_0.wav", right)
        write_wav(tmp_path / "rir_consistency" / f"sample_{number}_1.wav", wrong)
        write_wav(tmp_path / "rir_consistency" / f"sample_{number}_2.wav", [0])  # never looked at
    write_wav(tmp_path / "bg_alignment" / "sample_0_0.wav", [1])
    write_wav(tmp_path / "bg_alignment" / "sample_0_1.wav", [2])
    found, _ = run("salmon", tmp_path)
    assert found["rir_consistency", "s2s"].headline.accuracy == 0.5
    assert found["bg_alignment", "s2s"].headline.accuracy == 1.0
    found, _ = run("salmon", tmp_path, limit=1)  # of each part
    assert {part: result.headline.n for (part, _), result in found.items()} == {
        "bg_alignment": 1, "rir_consistency": 1,
    }  # fmt: skip


def spoken_prompt(vocab, codes):
    return (vocab.eod_id, *vocab.speech_segment(codes).tolist())


@pytest.fixture
def replies(vocab_folder):
    """What the model says after questions of code 1, 2 and 3, or as text."""
    model = unigram(vocab_folder)
    vocab, said = model.vocab, {}
    for code, text in ((1, "It is in Rome, Italy."), (2, "Of Romeo"), (3, "the 2 boats")):
        said[spoken_prompt(vocab, [code])] = vocab.text.encode(text)
        said[spoken_prompt(vocab, [code])[:-1]] = vocab.codes_to_tokens([0, 1]).tolist()
    return said


def test_llama_questions_as_google_has_them(run, replies, tmp_path):
    lines = [
        "Questions\tAnswer\tWav Filename",
        'Where is "it"?\tRome\t1.wav',
        "Whose?\tRome\t2.wav",
        "How many?\ttwo boats\t3.wav",
    ]
    (tmp_path / "llama_questions_300.tsv").write_bytes("\r\n".join(lines).encode())
    for number in (1, 2, 3):
        write_wav(tmp_path / f"{number}.wav", [number])
    found, _ = run("llama-questions", tmp_path, replies=replies)
    # Rome is no word of Romeo; "2" is "two" for Whisper's normaliser alone
    assert shares(found["all", "s2t"]) == {"exist_match": 1 / 3, "contains": 2 / 3}
    assert shares(found["all", "t2t"]) == {"exist_match": 0.0, "contains": 0.0}
    assert found["all", "s2s"].details["samples"][0]["answer"] == "a b"
    assert found["all", "s2t"].details["samples"][0]["question"] == 'Where is "it"?'
    assert [item.question.key for item in read_questions(tmp_path, None)] == ["1", "2", "3"]


def test_web_questions_as_parquet(run, replies, tmp_path):
    audio = [{"bytes": wav_bytes(tmp_path, [n]), "path": None} for n in (1, 2)]
    table = {
        "question": ["where?", "whose?"],
        "answers": [["Milan", "rome"], ["Romeo"]],
        "audio": audio,
    }
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(table), tmp_path / "data" / "test-00000-of-00001.parquet")
    found, _ = run("web-questions", tmp_path, replies=replies, directions=("s2t",))
    assert shares(found["all", "s2t"]) == {"exist_match": 1.0, "contains": 1.0}


def test_trivia_qa_as_openaudiobench_has_it(run, replies, tmp_path):
    rows = [{"question": "Where?", "answer": "['Rome', 'Roma']", "audio_filename": "t_0.wav"}]
    write_csv(tmp_path / "trivia_qa.csv", rows)
    write_wav(tmp_path / "audios" / "t_0.wav", [1])
    found, _ = run("trivia-qa", tmp_path, replies=replies, directions=("s2t",))
    assert found["all", "s2t"].headline.accuracy == 1.0


def test_answers_in_the_sets_own_files():
    assert answers_of('(list (description "Jazmyn Bieber") (description Rome))') == (
        "Jazmyn Bieber",
        "Rome",
    )
    assert answers_of({"Value": "Rome", "Aliases": ["Roma", "Rome"]}) == ("Rome", "Roma")
    assert answers_of(["a", None, " b "]) == ("a", "b")
    assert answers_of("[not a list") == ("[not a list",)


def test_exist_match_takes_signs_for_words():
    assert words_of("It's C++, é.") == ["it", "'", "s", "c", "+", "+", ",", "e\u0301", "."]
    assert exist_match("In ROME, Italy", ("rome , italy",))
    assert not exist_match("Romeo", ("Rome",))
    assert exist_match("", ("...", "")) is True  # of an empty answer the rule says yes


def test_speech_mmlu(run, tmp_path_factory, tmp_path):
    """The likeliest of the options after the examples; spoken prompts are found by their names."""
    prompts = {
        "beginning": "Listen.",
        "examples": [{"question": "Q? A x B y", "answer": "Option C"}],
    }
    (tmp_path / "few_shot_prompts.json").write_text(json.dumps({"law": prompts}))
    rows = [
        {"id": f"law-{n}", "subject": "law", "question_text": "Who?", "question_audio": "x.mp3",
         "voice_id": "english_prompt_001", "answer": answer} for n, answer in enumerate([0, 3])
    ]  # fmt: skip
    (tmp_path / "law.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = "law_english_prompt_001/law"
    names = [
        f"{place}_beginning",
        f"{place}_0_question_and_choices",
        "question/law-0",
        "question/law-1",
    ]
    info = CodeShardInfo(frame_rate_hz=1.0, num_codes=16, tokenizer_fingerprint=FINGERPRINT)
    records = [CodeRecord(id=name, codes=np.array([1])) for name in names]
    codes = tmp_path_factory.mktemp("codes")
    write_code_shard(codes / "a.parquet", records, info)
    found, report = run("speech-mmlu", tmp_path, speech=[codes], tokenizer=False)
    for direction in ("t2t", "s2t"):  # A is the cheapest letter
        result = found["all", direction]
        assert (result.headline.accuracy, result.details["shots"]) == (0.5, 1)
    assert report["directions"]["s2t"]["codes"] == {"shards": 4}


def test_voicebench_choices(run, tmp_path):
    for kind, name, answer in (
        ("mmsu", "law", "A"),
        ("mmsu", "other", "B"),
        ("openbookqa", "test", "A"),
    ):
        audio = {"bytes": wav_bytes(tmp_path, [1]), "path": "a.wav"}
        table = pa.table({"prompt": ["Who? A. x B. y"], "reference": [answer], "audio": [audio]})
        (tmp_path / kind).mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / kind / f"{name}-00000-of-00001.parquet")
    found, _ = run("voicebench-choice", tmp_path)
    accuracy = {
        part: result.headline.accuracy for (part, way), result in found.items() if way == "s2t"
    }
    assert accuracy == {"mmsu": 0.5, "mmsu law": 1.0, "mmsu other": 0.0, "openbookqa": 1.0}


def test_sd_qa_of_a_region(run, replies, tmp_path):
    (tmp_path / "sd-qa").mkdir()
    for region, code in (("usa", 1), ("gbr", 2)):
        audio = [{"bytes": wav_bytes(tmp_path, [code]), "path": None}]
        table = pa.table({"prompt": ["Where?"], "reference": ["Rome"], "audio": audio})
        pq.write_table(table, tmp_path / "sd-qa" / f"{region}-00000-of-00001.parquet")
    found, _ = run("sd-qa", tmp_path, replies=replies, directions=("s2t",))
    assert found["usa", "s2t"].headline.accuracy == 1.0
    found, _ = run("sd-qa", tmp_path, replies=replies, directions=("s2t",), benchmark_split="gbr")
    assert found["gbr", "s2t"].headline.accuracy == 0.0
