"""Bulk tokenization and training on corpora as they lie on a disk."""

from pathlib import Path

import pytest

from megatron_speech.data.code_shards import read_code_shards
from megatron_speech.errors import DataError
from tests.data.test_corpus_layouts import kaldi, write_dataset, write_sound
from tests.speech_tokenizer.tiny_tokenizer import save_tiny_tokenizer
from tests.tools.speech_training import DATA, SHORT, TINY
from tools import tokenize_speech, train_speech_tokenizer


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    """A folder of three corpora, each in another layout."""
    folder = tmp_path_factory.mktemp("corpora")
    write_dataset(folder / "hub/train.parquet")
    audio = write_sound(folder / "calls/c.wav", 4.0)
    kaldi(
        folder / "calls",
        wav_scp=f"c {audio}\n",
        segments="c-a c 1 2\nc-b c 2 3.5\n",
        text="c-a hi\nc-b you\n",
    )
    for number in range(3):
        write_sound(folder / f"libri/84/1/84-1-000{number}.flac", 1.0, number)
    (folder / "libri/84/1/84-1.trans.txt").write_text(
        "84-1-0000 ONE\n84-1-0001 TWO\n84-1-0002 NO\n"
    )
    return folder


def test_tokenizing_needs_no_manifest(corpora, tmp_path):
    tokenizer = save_tiny_tokenizer(tmp_path / "tokenizer")
    flags = ["--input", str(corpora), "--speech-tokenizer", str(tokenizer)]
    whole = tokenize_speech.main([*flags, "--output", str(tmp_path / "whole")])
    assert whole.rejected == {
        "duplicate_id": 1,
        "invalid_utf8": 1,
        "missing": 2,
        "no_audio": 1,
        "unreadable": 1,
    }
    records = {r.id: r for r in read_code_shards(tmp_path / "whole")[1]}
    assert len(records) == 2 + 3 + 40 - 2 - 4
    assert records["libri/84/1/84-1-0001"].text == "TWO"
    assert records["calls/c-b"].duration_s == 1.5
    assert records["hub/train:clip-20"].text == "says 20"
    assert records["hub/train:clip-20"].duration_s == pytest.approx(0.4)
    for task in ("1", "0"):
        some = [*flags, "--output", str(tmp_path / "some"), "--task", task, "--tasks", "2"]
        result = tokenize_speech.main(some)
    assert result.rejected == whole.rejected
    for path in (tmp_path / "whole").glob("*.parquet"):
        assert (tmp_path / "some" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("cached", [True, False])
def test_training_needs_no_manifest(corpora, tmp_path, cached):
    flags = ["--input", str(corpora), "--save", str(tmp_path), "--export", "last"]
    keep = "--cache-features" if cached else "--no-cache-features"
    sizes = [*TINY, *SHORT, *DATA.split(), "--micro-batch-size", "4", "--no-tensorboard"]
    result = train_speech_tokenizer.main(["tokenizer-smoke", *flags, *sizes, keep])
    assert result.finished
    assert "train:clip-5" in (tmp_path / "rejected.jsonl").read_text()


def test_a_folder_of_nothing_known_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/wav.scp.bak").write_text("x")
    tokenizer = save_tiny_tokenizer(tmp_path / "tokenizer")
    with pytest.raises(DataError, match="nor a corpus in a layout that is known"):
        tokenize_speech.main(
            ["--input", str(tmp_path / "in"), "--speech-tokenizer", str(tokenizer), "--output", "x"]
        )
