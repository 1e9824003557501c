"""Five clips of real speech through every tool that takes audio, or what was made of it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from megatron_speech.data.code_shards import CodeRecord, read_code_shards
from megatron_speech.speech_tokenizer import SpeechTokenizer
from tests.tools import speech_training
from tools import build_dataset, evaluate_codes, inspect_dataset, train_speech_tokenizer

pytestmark = pytest.mark.real


def records_of(codes: Path) -> list[CodeRecord]:
    return list(read_code_shards(codes)[1])


def test_training_reads_them_while_it_runs(manifest, tmp_path):
    flags = ["--no-cache-features", "--train-iters", "4", "--quantize-start-step", "1"]
    result = train_speech_tokenizer.main(speech_training.arguments(manifest, tmp_path, *flags))
    assert result.finished
    assert not (tmp_path / "rejected.jsonl").exists()


def test_codes_are_as_long_as_the_speech_and_carry_its_text(codes, clips, tokenizer):
    encoder = SpeechTokenizer.from_pretrained(tokenizer)
    for record, (path, text) in zip(records_of(codes), clips, strict=True):
        audio, rate_hz = soundfile.read(path, dtype="float32")
        assert (record.id, record.text, rate_hz) == (path.stem, text, 16_000)
        assert len(record.codes) == -(-len(audio) // 1280)
        np.testing.assert_array_equal(record.codes, encoder.encode([audio])[0])


def test_word_errors_of_the_codes(codes, tokenizer):
    flags = ["--speech-tokenizer", str(tokenizer), "--codes", str(codes)]
    (figures,) = evaluate_codes.main(flags).values()
    assert (figures["records"], figures["without_codes"]) == (5, 0)
    assert figures["codes"] == sum(len(record.codes) for record in records_of(codes))
    assert figures["wer"] > 0.5  # after eight steps


@pytest.mark.parametrize(
    ("kind", "endings"), [("speech", [""]), ("pairs", ["-asr", "-tts"]), ("text-to-token", [""])]
)
def test_datasets_of_the_codes(kind, endings, codes, vocab, tmp_path, capsys):
    flags = ["--codes", str(codes), "--vocab", str(vocab)]
    build_dataset.main([kind, *flags, "--output-prefix", str(tmp_path / "data")])
    spoken = sum(len(record.codes) for record in records_of(codes))
    for ending in endings:
        capsys.readouterr()
        prefix = str(tmp_path / f"data{ending}")
        inspection = inspect_dataset.main([prefix, "--vocab", str(vocab), "--documents", "5"])
        assert (inspection.facts.documents, inspection.facts.speech_tokens) == (5, spoken)
        assert ("dashwood" in capsys.readouterr().out) == (kind != "speech")
