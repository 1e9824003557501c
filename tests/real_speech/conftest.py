"""Five clips of real speech, a tokenizer trained on them for a few steps, and their codes."""

from pathlib import Path

import pytest

from megatron_speech.data.manifest import ManifestRow, write_manifest
from tests.interleaving.samples import write_corpus
from tests.real_speech.librivox import librivox_clips
from tests.tools import speech_training
from tools import build_vocab, tokenize_speech, train_speech_tokenizer


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
