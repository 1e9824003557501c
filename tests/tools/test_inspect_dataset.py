import numpy as np
import pytest

from megatron_speech.data.indexed import IndexedWriter
from megatron_speech.errors import DataError, VocabularyError
from tests.interleaving.samples import make_vocab
from tools import inspect_dataset


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, make_vocab(folder)


@pytest.fixture
def prefix(world, tmp_path):
    vocab = world[1]
    text = vocab.text.encode("The <b>cat</b> ran.")
    document = np.concatenate([text, vocab.speech_segment([7] * 12), [vocab.eod_id]])
    with IndexedWriter(tmp_path / "d", vocab) as writer:
        writer.add_documents([document, np.array([vocab.eod_id])])
    writer.write_facts("interleaved", "tok")
    return tmp_path / "d"


def show(world, prefix, *flags):
    return inspect_dataset.main([str(prefix), "--vocab", str(world[0] / "vocab"), *flags])


def test_shows_runs_and_counts(world, prefix, capsys):
    shown = show(world, prefix)
    kinds = [run.kind for run in shown.documents[0]]
    assert kinds == ["text", "special", "speech", "special"]
    assert shown.documents[0][0].text == "The <b>cat</b> ran."
    assert shown.documents[0][2].text.split() == ["7"] * 12
    printed = capsys.readouterr().out
    assert "2 documents" in printed
    assert "12 speech tokens" in printed
    assert "(12 codes)" in printed


def test_writes_a_page_in_which_text_is_text(world, prefix, tmp_path):
    show(world, prefix, "--html", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert "The &lt;b&gt;cat" in page
    assert page.count('class="speech"') == 1


def test_first_and_documents_choose(world, prefix):
    assert len(show(world, prefix, "--first", "1", "--documents", "5").documents) == 1
    with pytest.raises(DataError, match="has 2 documents, none number 2"):
        show(world, prefix, "--first", "2")


def test_damaged_unfinished_and_foreign_datasets(world, prefix, tmp_path):
    make_vocab(tmp_path, size=300)
    with pytest.raises(VocabularyError, match="give the vocabulary it was made with"):
        inspect_dataset.main([str(prefix), "--vocab", str(tmp_path / "vocab")])
    binary = prefix.with_suffix(".bin")
    binary.write_bytes(binary.read_bytes()[:-2])
    with pytest.raises(DataError, match="cut short"):
        show(world, prefix)
    prefix.with_suffix(".json").unlink()
    with pytest.raises(DataError, match="missing"):
        show(world, prefix)
