"""A --device that is not there is refused by every tool before it reads anything, in one line."""

import contextlib
import importlib
import io
from pathlib import Path

import pytest
import torch

from megatron_speech.errors import ConfigError

TOOLS = {
    "build_dataset generate": "--model m --like l --plan p --output o",
    "build_dataset interleaved": "--model m --like l --input i --vocab v --output-prefix o",
    "build_dataset preference": "--codes c --vocab v --model m --output-prefix o",
    "build_dialogues": "--input i --vocab v --output-prefix o --model m --like l",
    "chat": "--model m --speech-tokenizer s --decoder d",
    "decode_speech": "--decoder d --codes c --output o",
    "evaluate": "--model m --tasks asr --output o",
    "evaluate_chat": "--model m --speech-tokenizer s --items i --questions q --output o",
    "evaluate_codes": "--codes c",
    "evaluate_decoder": "--decoder d --speech-tokenizer s --manifest m",
    "prepare_speech": "--input i --whisper w --output o",
    "regenerate_span": "x --vocab v --document 0 --token 0 --plan p --model m --like l",
    "serve_chat": "--model m --speech-tokenizer s --decoder d",
    "tokenize_speech": "--input i --speech-tokenizer s --output o",
    "transcribe_speech": "--manifest m --whisper w --output o.parquet",
}
"""Those that have one, with what they need besides."""


def run(tool: str, *more: str) -> None:
    name, *words = tool.split()
    importlib.import_module(f"tools.{name}").main([*words, *more])


@pytest.fixture
def no_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("device", ["nosuch", "cuda", "cuda:x", "meta"])
@pytest.mark.parametrize("tool", TOOLS)
def test_a_device_that_is_not_there(tool, device, no_gpu):
    with pytest.raises(ConfigError, match=f"^--device {device} cannot be used .*give cpu") as said:
        run(tool, *TOOLS[tool].split(), "--device", device)
    assert "\n" not in str(said.value)


def test_the_number_of_a_gpu_that_is_not_there(no_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"--device cuda:2 .*the last one here is cuda:1"):
        run("evaluate_codes", "--codes", "c", "--device", "cuda:2")


def test_plans_and_jobs_for_other_machines_need_no_gpu_here(no_gpu):
    for tool, more in (
        ("tokenize_speech", "--dry-run"),
        ("prepare_speech", "--dry-run"),
        ("build_dataset generate", "--executor slurm --partition p"),
        ("build_dataset generate", "--engine vllm --vllm-python python"),
    ):
        given = [*TOOLS[tool].split(), *more.split(), "--device"]
        with pytest.raises(Exception, match=r"(?i)\b(no such|does not exist|missing|holds)\b"):
            run(tool, *given, "cuda")
        with pytest.raises(ConfigError, match="nosuch"):
            run(tool, *given, "nosuch")


def test_all_that_have_one_are_here():
    there = {path.stem for path in (Path(__file__).parents[2] / "tools").glob("*.py")}
    found = set()
    for name in there - {"build_dataset"}:  # its jobs have
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            importlib.import_module(f"tools.{name}").main(["--help"])
        if "--device " in said.getvalue():
            found.add(name)
    assert found == {tool for tool in TOOLS if " " not in tool}
