"""Five clips of real speech through every tool that takes audio, or what was made of it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from megatron_speech.data.code_shards import CodeRecord, read_code_shards
from megatron_speech.data.manifest import ManifestRow, write_manifest
from megatron_speech.speech_tokenizer import SpeechTokenizer
from tests.corpus.samples import write_corpus
from tests.real_speech.librivox import librivox_clips
from tests.tools import speech_training
from tools import (
    build_dataset,
    build_vocab,
    evaluate_codes,
    inspect_dataset,
    tokenize_speech,
    train_speech_tokenizer,
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[tuple[Path, str]]:
    return librivox_clips(tmp_path_factory.mktemp("librivox"))


@pytest.fixture(scope="module")
def manifest(clips, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "manifest.parquet"
    write_manifest(path, [ManifestRow(id=p.stem, path=p, text=text) for p, text in clips])
    return path


@pytest.fixture(scope="module")
def tokenizer(manifest, tmp_path_factory) -> Path:
    """Trained for a few steps on the clips, read whole into memory."""
    save = tmp_path_factory.mktemp("tokenizer")
    result = train_speech_tokenizer.main(speech_training.arguments(manifest, save))
    assert result.finished
    assert result.export is not None
    assert not (save / "rejected.jsonl").exists()
    return result.export


@pytest.fixture(scope="module")
def codes(manifest, tokenizer, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("codes")
    files = {"--input": manifest, "--speech-tokenizer": tokenizer, "--output": output}
    result = tokenize_speech.main([str(part) for pair in files.items() for part in pair])
    assert (result.records, result.rejected) == (5, {})
    return output


@pytest.fixture(scope="module")
def vocab(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vocab")
    write_corpus(folder / "corpus.parquet", 50)
    flags = ["--input", str(folder / "corpus.parquet"), "--train-bpe", "300"]
    flags += ["--speech-tokenizer", str(tokenizer), "--output", str(folder / "vocab")]
    build_vocab.main(flags)
    return folder / "vocab"


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
