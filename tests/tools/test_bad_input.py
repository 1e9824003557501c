"""Wrong commands, to every tool and the demos: one screen that says what is wrong, exit code 2."""

import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_speech import cli

ROOT = Path(__file__).resolve().parents[2]
SCREEN = 40
"""Lines."""
NOT_THERE = {
    "tools.build_dataset": "text-to-token --codes none --vocab none --output-prefix out",
    "tools.build_dialogues": "--input none --vocab none --output-prefix out "
    "--user-codes none --assistant-codes none",
    "tools.adopt_dataset": "--input none --tokenizer-model none",
    "tools.build_vocab": "--input none --train-bpe 300 --num-codes 4 --output out",
    "tools.chat": "--model none --speech-tokenizer none --decoder none --output-dir out",
    "tools.convert_checkpoint": "megatron-to-hf --load none --hf out",
    "tools.decode_speech": "--decoder none --codes none --output out",
    "tools.evaluate": "--model none --speech none --cloze none --output out",
    "tools.evaluate_chat": "--model none --speech-tokenizer none --items none --questions none "
    "--output out",
    "tools.evaluate_codes": "--speech-tokenizer none --codes none",
    "tools.evaluate_decoder": "--decoder none --speech-tokenizer none --manifest none --output out",
    "tools.import_codes": "--input none --output out --name a --frame-rate-hz 25 --num-codes 9",
    "tools.inspect_dataset": "none --vocab none",
    "tools.make_speech": "--texts none --output-dir out",
    "tools.merge_datasets": "--input none --vocab none --output-prefix out",
    "tools.plan_mixture": "--tokens 1B --seq-length 64 --data-path rest none",
    "tools.plan_run": "lm-smoke --measured-run none",
    "tools.plot_run": "--runs none --output out.png",
    "tools.preprocess_data": "--input none --tokenizer-model none --output-prefix out",
    "tools.prepare_speech": "--input none --whisper none --output out",
    "tools.pretrain": "lm-smoke --vocab none --data-path none --save out",
    "tools.regenerate_span": "none --vocab none --document 0 --token 0 --plan none --model none "
    "--like none",
    "tools.make_cloze": "--input none --output-dir out",
    "tools.transcribe_speech": "--manifest none --whisper none --output out.parquet",
    "tools.serve_chat": "--model none --speech-tokenizer none --decoder none",
    "tools.tokenize_speech": "--input none --speech-tokenizer none --output out",
    "tools.train_speech_decoder": "vocoder-smoke --manifest none --save out",
    "tools.train_speech_tokenizer": "tokenizer-smoke --manifest none --save out",
    "tools.verify_dataset": "none --vocab none",
    "examples.voice.demo": "--size smoke --output out --demo none",
}
"""A command for each that names files which are not there."""
READ_NO_FILES = {"tools.doctor", "tools.launch", "tools.plan_small", "tools.rehearse"}


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Runs a command as from the shell, in an empty folder; what it says when it is refused."""
    monkeypatch.chdir(tmp_path)

    def refused(module: str, arguments: list[str]) -> str:
        with pytest.raises(SystemExit) as stopped:
            cli.run(lambda: importlib.import_module(module).main(arguments))
        assert stopped.value.code == 2
        captured = capfd.readouterr()
        said = captured.out + captured.err
        assert "Traceback" not in said
        assert 0 < len(said.splitlines()) <= SCREEN, said
        return said

    return refused


def test_no_tool_is_left_out():
    tools = {f"tools.{path.stem}" for path in (ROOT / "tools").glob("*.py")}
    assert tools - NOT_THERE.keys() == READ_NO_FILES


@pytest.mark.parametrize("module", NOT_THERE)
def test_what_is_not_there_is_named(module, refused):
    assert "none" in refused(module, NOT_THERE[module].split())


def test_a_layout_that_cannot_be(refused):
    assert "--global-batch-size 4" in refused("tools.rehearse", ["lm-smoke", "--gpus", "4"])


@pytest.mark.parametrize("module", [*NOT_THERE, *sorted(READ_NO_FILES), "examples.quickstart.demo"])
def test_an_unknown_flag_is_named(module, refused):
    arguments = NOT_THERE.get(module, "lm-smoke" if module == "tools.rehearse" else "").split()
    assert "--no-such-flag" in refused(module, [*arguments, "--no-such-flag", "1"])


def test_an_unknown_size_of_the_demo(refused):
    said = refused("examples.quickstart.demo", ["--size", "huge"])
    assert all(size in said for size in ("huge", "smoke", "demo", "full"))


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("none.jsonl", "", "error: corpus none.jsonl does not exist"),
        (
            "a.jsonl",
            '{"id": 1, "story": "Once."}\n',
            "error: a.jsonl: 0 usable documents (rejected: 1 no_such_key, the first: 'text' is "
            "missing; keys: ['id', 'story'])",
        ),
    ],
)
def test_a_text_that_the_demo_cannot_use(tmp_path, name, line, message):
    """As `make demo TEXT=...` runs it, up to where the text is read."""
    if line:
        (tmp_path / name).write_text(line)
    script = ROOT / "examples" / "quickstart" / "demo.py"
    done = subprocess.run(
        [sys.executable, script, "--size", "smoke", "--output", "out", "--text", name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len((done.stdout + done.stderr).splitlines()) <= SCREEN


@pytest.mark.parametrize("path", ["my texts/*.parquet", "it's $(here).jsonl", "plain.jsonl"])
def test_make_demo_hands_over_one_path(path):
    given = path.replace("$", "$$")  # make's own way to write it
    # A make that runs the tests would have this one print directories, too.
    command = ["make", "-n", "--no-print-directory", "demo", "SIZE=smoke", f"TEXT={given}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    script = said[said.index("examples/quickstart/demo.py") :].replace("\\\n", " ")
    assert shlex.split(script)[-2:] == ["--text", path]
