"""Folders that several tests read."""

import pytest

from tests.evaluation.fakes import SENTENCES, make_model, make_vocab, write_speech


@pytest.fixture(scope="session")
def vocab_folder(tmp_path_factory):
    return make_vocab(tmp_path_factory.mktemp("vocab"))


@pytest.fixture(scope="session")
def model_folder(vocab_folder, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"), vocab_folder)


@pytest.fixture
def speech_folder(tmp_path):
    write_speech(tmp_path / "speech" / "shard.parquet", SENTENCES)
    return tmp_path / "speech"
