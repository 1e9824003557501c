"""Word errors of codes, from the tool's flags to its figures."""

import json

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from megatron_speech.data.code_shards import CodeRecord, CodeShardInfo, write_code_shard
from megatron_speech.errors import ConfigError, DataError
from megatron_speech.evaluation.codes import codebook_figures
from megatron_speech.io.parquet import write_parquet
from megatron_speech.speech_tokenizer import tokenizer as tokenizer_module
from tests.evaluation.fakes import (
    FINGERPRINT,
    NUM_CODES,
    SENTENCES,
    TableTranscriber,
    sentence_codes,
    write_speech,
)
from tools import evaluate_codes


@pytest.fixture(autouse=True)
def table_tokenizer(monkeypatch):
    class Loaded:
        @staticmethod
        def from_pretrained(path, device):
            return TableTranscriber()

    monkeypatch.setattr(tokenizer_module, "SpeechTokenizer", Loaded)


def run(tmp_path, *paths, **more):
    flags = ["--speech-tokenizer", str(tmp_path), "--codes", *map(str, paths)]
    for name, value in more.items():
        flags += [f"--{name}", str(value)]
    return evaluate_codes.main(flags)


def test_codes_that_read_back_exactly(tmp_path):
    write_speech(tmp_path / "real" / "shard.parquet", SENTENCES)
    results = run(tmp_path, tmp_path / "real", output=tmp_path / "wer.json")
    assert results == json.loads((tmp_path / "wer.json").read_text())
    figures = results["real"]
    assert figures["wer"] == 0
    assert figures["records"] == len(SENTENCES)
    assert figures["codes"] == sum(map(len, SENTENCES))


def test_missing_codes_count_as_words_not_understood(tmp_path):
    info = CodeShardInfo(frame_rate_hz=12.5, num_codes=NUM_CODES, tokenizer_fingerprint=FINGERPRINT)
    records = [
        CodeRecord(id="a", codes=np.empty(0, dtype=np.int64), text="one two three four"),
        CodeRecord(id="b", codes=np.array([1, 2]), text="five"),
    ]
    write_code_shard(tmp_path / "made.parquet", records, info)
    figures = run(tmp_path, tmp_path / "made.parquet")["made"]
    assert figures["wer"] == 1.0
    assert figures["without_codes"] == 1


def test_limit(tmp_path):
    write_speech(tmp_path / "real.parquet", SENTENCES)
    assert run(tmp_path, tmp_path / "real.parquet", limit=2)["real"]["records"] == 2


def test_another_tokenizers_codes_are_refused(tmp_path):
    write_speech(tmp_path / "other.parquet", SENTENCES, fingerprint="0" * 16)
    with pytest.raises(DataError, match=r"0000.*expected ffff"):
        run(tmp_path, tmp_path / "other.parquet")


def test_codes_without_text_are_refused(tmp_path):
    info = CodeShardInfo(frame_rate_hz=12.5, num_codes=NUM_CODES, tokenizer_fingerprint=FINGERPRINT)
    write_code_shard(tmp_path / "x.parquet", [CodeRecord(id="a", codes=np.array([1]))], info)
    with pytest.raises(DataError, match="1 records without text"):
        run(tmp_path, tmp_path / "x.parquet")


def test_two_sets_of_one_name(tmp_path):
    with pytest.raises(ConfigError, match="different names"):
        run(tmp_path, tmp_path / "a" / "x", tmp_path / "b" / "x")


def test_codebook_figures():
    even = codebook_figures(np.array([5, 5, 5, 5, 0, 0, 0, 0]))
    assert even == {"codebook_usage": 0.5, "perplexity": pytest.approx(4.0)}
    assert codebook_figures(np.array([9, 0]))["perplexity"] == pytest.approx(1.0)


def write_generated(folder):
    """A request shard and what a generate job left of it: two good spans, one bad, one empty."""
    info = CodeShardInfo(frame_rate_hz=12.5, num_codes=NUM_CODES, tokenizer_fingerprint=FINGERPRINT)
    good = [np.array(sentence_codes(text)) for text in SENTENCES[:2]]
    bad, none = np.array([1, 1, 1]), np.zeros(0, np.int64)
    texts = [*SENTENCES[:2], SENTENCES[2], "on 3 May"]
    records = [
        CodeRecord(id=f"d/{n:03d}", codes=codes, text=text)
        for n, (codes, text) in enumerate(zip([*good, none, none], texts, strict=True))
    ]
    write_code_shard(folder / "codes" / "0.parquet", records, info)
    ids = [record.id for record in records]
    report = {
        "id": ids,
        "batch": [0, 0, 0, 0],
        "reason": [None, None, "loop", "no_end"],
        "rejected_codes": [None, None, bad, none],
    }
    write_parquet(folder / "codes" / "reports" / "0.parquet", pa.table(report))
    requests = {
        "id": ids,
        "text": texts,
        "content": ["prose", "dialogue", "prose", "numbers"],
        "position": [0.0, 0.3, 0.59, 0.999],
    }
    write_parquet(folder / "requests" / "0.parquet", pa.table(requests))
    return ids


def test_spans_are_told_by_content_length_and_place(tmp_path):
    write_generated(tmp_path)
    figures = run(
        tmp_path, tmp_path / "codes", requests=tmp_path / "requests", figure=tmp_path / "spans.png"
    )["codes"]["spans"]
    words = [len(text.split()) for text in (*SENTENCES[:3], "on 3 May")]
    assert figures["all"]["words"] == sum(words)
    assert figures["all"]["wer_before_gates"] == pytest.approx(sum(words[2:]) / sum(words))
    assert (figures["all"]["wer_after_gates"], figures["all"]["rejected"]) == (0.0, 0.5)
    assert figures["all"]["reasons"] == {"loop": 1, "no_end": 1}
    assert figures["by_content"]["dialogue"]["rejected"] == 0
    assert figures["by_content"]["numbers"]["wer_before_gates"] == 1.0
    assert figures["by_content"]["numbers"]["wer_after_gates"] is None
    assert sum(row["spans"] for row in figures["by_words"].values()) == 4
    assert figures["by_position"].keys() == {"1", "2", "3", "5"}
    assert (tmp_path / "spans.png").read_bytes()[:4] == b"\x89PNG"


def test_requests_of_another_plan_are_refused(tmp_path):
    ids = write_generated(tmp_path)
    table = pa.table({"id": ids[::-1], "content": ["prose"] * 4, "position": [0.0] * 4})
    write_parquet(tmp_path / "requests" / "0.parquet", table)
    with pytest.raises(DataError, match="answers other requests"):
        run(tmp_path, tmp_path / "codes", requests=tmp_path / "requests")


def test_without_a_speech_tokenizer_codes_are_counted(tmp_path, capsys):
    write_speech(tmp_path / "real.parquet", SENTENCES)
    figures = evaluate_codes.main(["--codes", str(tmp_path / "real.parquet")])["real"]
    different = len({code for sentence in SENTENCES for code in sentence_codes(sentence)})
    assert figures["codebook_usage"] == different / NUM_CODES
    assert "wer" not in figures
    assert "word errors" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--requests need a --speech-tokenizer"):
        evaluate_codes.main(["--codes", str(tmp_path / "real.parquet"), "--requests", "none"])


def test_a_point_in_a_folders_name_is_no_suffix(tmp_path):
    write_speech(tmp_path / "run-12.5hz" / "shard.parquet", SENTENCES)
    write_speech(tmp_path / "run-12.5hz-b" / "shard.parquet", SENTENCES)
    found = run(tmp_path, tmp_path / "run-12.5hz", tmp_path / "run-12.5hz-b")
    assert set(found) == {"run-12.5hz", "run-12.5hz-b"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--whisper-silence-s", "nan"], "expected 0 to 30"),
     (["--whisper-silence-s", "-5"], "expected 0 to 30"),
     (["--requests", "none", "--figure", "spans.foo"], "must end in .png"),
     (["--output", "/"], "is a folder")],
)  # fmt: skip
def test_what_would_fail_at_the_end_fails_at_once(flags, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        evaluate_codes.main(["--speech-tokenizer", "none", "--codes", str(tmp_path), *flags])


def test_recordings_that_name_no_language_are_of_the_one_given(tmp_path, monkeypatch):
    class Reader:
        @staticmethod
        def from_pretrained(path, device):
            return Reader()

        def transcribe(self, clips, languages, silence_s):
            assert languages == ["zh"]
            return ["今天天汽很好"]

    monkeypatch.setattr("megatron_speech.speech_tokenizer.whisper.Whisper", Reader)
    soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.1), 16_000)
    row = {"id": "a", "path": "a.wav", "text": "今天天气很好", "speaker": "", "language": ""}
    (tmp_path / "heard.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n")
    flags = ["--whisper", "none", "--manifest", str(tmp_path / "heard.jsonl"), "--language", "zh"]
    figures = evaluate_codes.main(flags)["heard"]
    assert (figures["words"], figures["wer_whisper"]) == (6, pytest.approx(1 / 6))
