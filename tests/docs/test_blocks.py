"""Every code block of the documentation works: quick ones run here, flags are checked of all."""

import ast
import re
from pathlib import Path

import pytest

from megatron_speech.speech_tokenizer.text import AsrText, train_text_tokenizer
from tests.docs.commands import commands, complaint, python_calls
from tests.docs.pages import NEEDS, ROOT, RUN, SHOWN, all_blocks, pages, tokens
from tests.docs.runner import prepare, run
from tests.speech_tokenizer.tiny_tokenizer import save_tiny_tokenizer

BLOCKS = all_blocks()
SHELL = [block for block in BLOCKS if block.language == "bash"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_block_says_what_it_is_and_how_it_is_run(block):
    assert block.language in RUN | SHOWN, f"{block.name} has the language {block.language!r}"
    if block.language in SHOWN:
        assert block.how == "quick", f"{block.name} is shown, not run, and needs no marker"
    assert block.how in ("quick", "long", "ci") or block.needs, f"{block.name}: {block.how}"
    assert block.needs <= NEEDS, f"{block.name} needs {block.needs - NEEDS}, which nobody knows"


def test_no_code_stands_where_it_is_not_seen():
    """Indented blocks have no language and no marker; every fence has both or neither."""
    hidden = [
        f"{page.relative_to(ROOT)}:{token.map[0] + 1}"
        for page in pages()
        for token in tokens(page)
        if token.type == "code_block"
    ]
    assert not hidden, f"indented code, write fences: {hidden}"


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.name)
def test_tools_accept_the_flags(block, capsys):
    for script, arguments in python_calls(block.text):
        said = complaint(script, arguments)
        captured = capsys.readouterr()
        assert not said, f"{block.name}: {said}\n{captured.out}{captured.err}"


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.name)
def test_make_targets_exist_and_ci_runs_those_it_should(block):
    makefile = (ROOT / "Makefile").read_text()
    targets = " ".join(re.findall(r"^([a-z0-9 -]+):", makefile, flags=re.MULTILINE)).split()
    steps = (ROOT / ".ci" / "run").read_text()
    for words in commands(block.text):
        if words[0] == "make":
            assert words[1] in targets, f"{block.name}: no target {words[1]}"
            if block.how == "ci":
                assert re.search(rf"^ *make {words[1]}\b", steps, flags=re.MULTILINE), words
        elif block.how == "ci":
            pytest.fail(f"{block.name}: `ci` is for make targets, not for {words}")


TOOLS = [
    path
    for folder in ("tools", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "cli.run(" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: str(tool.relative_to(ROOT)))
def test_commands_in_the_help_of_tools_are_accepted(tool, capsys):
    """Indented, or the help joins them to one line; `...` stands for what is left out."""
    tree = ast.parse(tool.read_text(encoding="utf-8"))
    text = ast.get_docstring(tree, clean=False) or ""
    assert not re.search(r"^(python|torchrun) \S+\.py", text, flags=re.MULTILINE), "not indented"
    shown = "\n".join(line for line in text.splitlines() if line.startswith("    "))
    for script, arguments in python_calls(shown):
        if "..." not in arguments:
            said = complaint(script, arguments)
            captured = capsys.readouterr()
            assert not said, f"{tool.name}: {said}\n{captured.out}{captured.err}"


def test_a_wrong_flag_is_found(capsys):
    script, arguments = next(python_calls("torchrun x tools/pretrain.py lm-smoke --vocap v; ls"))
    assert complaint(script, arguments)
    assert "--vocap" in "".join(capsys.readouterr())


def save_transcribing_tokenizer(folder: Path) -> None:
    """What the walkthrough's long training block would have made, with random weights."""
    train_text_tokenizer(["the cat sat on the mat", "a dog ran"] * 4, 300, folder)
    text = AsrText(folder)
    tokens = {"vocab_size": text.size, "eos_token_id": text.eos_id}
    save_tiny_tokenizer(folder, **tokens, decoder_start_token_id=text.start_id)


def test_quick_blocks_run_in_order(tmp_path):
    prepare(tmp_path)
    save_transcribing_tokenizer(tmp_path / "runs/try/speech_tokenizer/export")
    quick = [block for block in BLOCKS if block.how == "quick" and block.language in RUN]
    assert len(quick) >= 4
    run(quick, tmp_path, timeout_s=300)
