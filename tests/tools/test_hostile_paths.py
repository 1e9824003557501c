"""Paths that lead nowhere, in a circle or to the wrong kind of thing: one screen and status 2."""

import importlib
import os
from pathlib import Path

import pytest

from megatron_speech.jobs import program
from tests.tools.test_bad_input import NOT_THERE, SCREEN


def _file(path: Path) -> str:
    path.write_bytes(b"")
    return str(path)


def _folder(path: Path) -> str:
    path.mkdir()
    return str(path)


def _below_a_file(path: Path) -> str:
    return _file(path) + "/below"


def _circle(path: Path) -> str:
    path.symlink_to(path)
    return str(path)


def _nowhere(path: Path) -> str:
    path.symlink_to(path.with_name("gone"))
    return str(path)


def _long(path: Path) -> str:
    return str(path) + "x" * 300


KINDS = {
    "an empty file": _file,
    "an empty folder": _folder,
    "below a file": _below_a_file,
    "a circle of links": _circle,
    "a link that leads nowhere": _nowhere,
    "a name too long": _long,
}


def said_by(module: str, arguments: list[str], capfd) -> str:
    with pytest.raises(SystemExit) as stopped:
        program.run(lambda: importlib.import_module(module).main(arguments))
    captured = capfd.readouterr()
    said = captured.out + captured.err
    assert stopped.value.code == 2, said
    assert 0 < len(said.splitlines()) <= SCREEN, said
    return said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("module", NOT_THERE)
def test_what_is_read(module, kind, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    path = KINDS[kind](tmp_path / "given")
    arguments = [path if word == "none" else word for word in NOT_THERE[module].split()]
    assert "given" in said_by(module, arguments, capfd)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A corpus and a vocabulary, enough for the tools whose output is tried."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "corpus.jsonl").write_text('{"text": "The cat sat on the mat."}\n' * 20)
    build = importlib.import_module("tools.build_vocab")
    settings = ["--train-bpe", "300", "--num-codes", "4", "--output", str(folder / "vocab")]
    build.main(["--input", str(folder / "corpus.jsonl"), *settings])
    return folder


WRITE = {
    "tools.build_vocab": "--input IN/corpus.jsonl --train-bpe 300 --num-codes 4 --output OUT",
    "tools.preprocess_data": "--input IN/corpus.jsonl --tokenizer-model IN/vocab --append-eod "
    "--output-prefix OUT/a",
    "tools.build_dataset": "plan --input IN/corpus.jsonl --vocab IN/vocab --output OUT",
    "tools.make_speech": "--texts IN/corpus.jsonl --output-dir OUT --workers 1",
    "tools.plan_run": "lm-smoke --output OUT/plan.json",
    "tools.pretrain": "lm-smoke --mock-data --vocab IN/vocab --save OUT --train-iters 1",
}


@pytest.mark.parametrize("kind", ["an empty file", "below a file", "a circle of links"])
@pytest.mark.parametrize("module", WRITE)
def test_what_is_written(module, kind, tmp_path, inputs, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    path = KINDS[kind](tmp_path / "given")
    words = WRITE[module].replace("IN/", f"{inputs}/").replace("OUT", path).split()
    assert "given" in said_by(module, words, capfd)


def test_what_this_user_may_not_write(tmp_path, inputs, capfd):
    """As a user without rights, in a process of its own: root may write everywhere."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    words = WRITE["tools.preprocess_data"].replace("IN/", f"{inputs}/")
    words = words.replace("OUT", str(locked / "given")).split()
    module = importlib.import_module("tools.preprocess_data")
    for parent in [tmp_path, *tmp_path.parents, inputs, *inputs.parents]:
        if "pytest" in str(parent):
            parent.chmod(0o755)
    module.main([*words[:-1], str(tmp_path / "warm")])  # what is imported on the way, is now
    capfd.readouterr()
    before = os.geteuid()
    os.seteuid(65534 if before == 0 else before)
    try:
        said = said_by("tools.preprocess_data", words, capfd)
    finally:
        os.seteuid(before)
    assert "given" in said
    assert "Permission denied; look at its permissions" in said
