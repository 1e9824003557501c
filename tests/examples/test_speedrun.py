"""examples/speedrun.sh runs the demo's commands: it is run with a `python` that only writes down
what it is asked for, and the demo with tools that do so."""

import importlib
import json
import os
import stat
import subprocess
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.quickstart.chain import chain
from examples.quickstart.runner import Demo
from examples.quickstart.sizes import SIZES
from examples.voice import stages as voice
from examples.voice.sizes import SIZES as VOICE_SIZES
from megatron_speech.training import reporting

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "speedrun.sh"
STORY_SEGMENTS = {"smoke": 153, "demo": 9_030}
"""Sentences of the spoken stories, which the demo counts to cut their codes into shards."""
SPOKEN = ("train", "stories", "sentences", "windows", "held-out-voice", "evaluation")
Command = tuple[str, ...]

RECORDER = """#!{python}
import json, sys
with open({calls!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""


class Anything(int):
    """What a tool returns, as far as the demo's stages look into it."""

    def __getattr__(self, name):
        return dict if name in ("items", "keys") else Anything(1)

    def __getitem__(self, key):
        return Anything(1)

    def __call__(self, *arguments):
        return Anything(1)


class RecordedTool(types.ModuleType):
    """A tool whose `main` writes down its arguments."""

    def __init__(self, name: str, commands: list[list[str]]):
        super().__init__(name)
        self.VOICES = {"all": ()}
        self._script = f"{name.replace('.', '/')}.py"
        self._commands = commands

    def main(self, argv):
        self._commands.append([self._script, *map(str, argv)])
        return [Anything(1)] if self._script == "tools/preprocess_data.py" else Anything(1)


def write_story_shards(run: Path, size: str) -> None:
    """The files that commands are made of: shards of stories, and how many sentences they have."""
    table = pa.table({"id": range(STORY_SEGMENTS[size])})
    for name in SPOKEN:
        (run / "speech" / name).mkdir(parents=True)
        pq.write_table(table, run / "speech" / name / "manifest.parquet")
    (run / "codes" / "stories").mkdir(parents=True)
    for number in range(16):
        (run / "codes" / "stories" / f"shard_{number:06d}.parquet").touch()


def commands_of_the_script(size: str, folder: Path) -> list[list[str]]:
    run, calls, python = folder / "run", folder / "calls", folder / "python"
    write_story_shards(run, size)
    python.write_text(RECORDER.format(python=sys.executable, calls=str(calls)))
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "SIZE": size, "RUN": str(run), "PYTHON": str(python)}
    subprocess.run(["bash", SCRIPT], env=environment, check=True, capture_output=True, text=True)
    asked = [json.loads(line) for line in calls.read_text().splitlines()]
    return [[word.removeprefix(f"{ROOT}/") for word in words] for words in asked if words[0] != "-"]


def commands_of_the_demos(size: str, folder: Path, monkeypatch) -> list[list[str]]:
    commands: list[list[str]] = []
    modules = [f"tools.{path.stem}" for path in (ROOT / "tools").glob("*.py")]
    for name in [*modules, "examples.storyworld.generate", "examples.storyworld.chat"]:
        tool = RecordedTool(name, commands)
        monkeypatch.setitem(sys.modules, name, tool)
        parent, _, last = name.rpartition(".")
        monkeypatch.setattr(importlib.import_module(parent), last, tool, raising=False)
    monkeypatch.setattr(reporting, "read_metrics", lambda *_: Anything(1))
    monkeypatch.setattr("examples.quickstart.corpora.split_test_texts", lambda folder: None)
    monkeypatch.setattr("examples.quickstart.corpora.choose_text", lambda demo: {})
    run = folder / "run"
    write_story_shards(run, size)
    demo = Demo(size=SIZES[size], output=run, machine={"precision": "fp32"})
    for stage in chain(demo.size):
        stage.run(demo, {})
    talking = voice.VoiceDemo(
        size=VOICE_SIZES[size], output=run, base=run, machine={"precision": "fp32"}
    )
    for stage in (voice.dialogues, voice.fine_tuning):
        stage(talking, {})
    return [[word.removeprefix(f"{run}/") for word in words] for words in commands]


def by_flag(words: list[str]) -> Command:
    """A command without regard to the order of its flags, nor to how a flag has its value."""
    parts: list[str] = []
    for word in words:
        if word.startswith("--"):
            parts.append(word.replace("=", " "))
        elif parts and parts[-1].startswith("--"):
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    leading = [part for part in parts if not part.startswith("--")]
    return (*leading, *sorted(set(parts[len(leading) :]) - DEFAULTS))


DEFAULTS = {"--dtype float32", "--device cpu", "--precision fp32", "--no-bf16", "--quantize"}
"""What the demos say explicitly (on a machine without fast bf16) and the tools do by themselves."""


def is_a_measurement(command: Command) -> bool:
    """What the demo runs for its page alone: reading codes back, and codes of the test texts."""
    return command[0] == "tools/evaluate_codes.py" or "text_to_token/test" in " ".join(command)


def joined(plan: Command, generate: Command, assemble: Command) -> Command:
    """The three jobs of interleaving as the one command that runs them all."""
    work = "interleaved/data.work"
    between = {"--output": "plan codes", "--plan": "plan", "--codes": "codes"}
    flags = {*plan[2:], *generate[2:], *assemble[2:]}
    for flag, folders in between.items():
        flags -= {f"{flag} {work}/{folder}" for folder in folders.split()}
    return ("tools/build_dataset.py", "interleaved", *sorted(flags))


@pytest.mark.parametrize("size", ["smoke", "demo"])
def test_the_script_runs_the_commands_of_the_demos(size, tmp_path, monkeypatch):
    (tmp_path / "script").mkdir()
    script = [by_flag(c) for c in commands_of_the_script(size, tmp_path / "script")]
    demos = [by_flag(c) for c in commands_of_the_demos(size, tmp_path / "demos", monkeypatch)]
    jobs = [command for command in script if command[1] in ("plan", "generate", "assemble")]
    assert [job[1] for job in jobs] == ["plan", "generate", "assemble"]
    assert script[-1][0] == "tools/chat.py"
    ours = [command for command in script[:-1] if command not in jobs] + [joined(*jobs)]
    theirs = [command for command in demos if not is_a_measurement(command)]
    assert len(theirs) > 30
    assert sorted(ours) == sorted(theirs)


def test_the_script_is_one_to_read():
    text = SCRIPT.read_text()
    assert text.count("\n") <= 90
    assert max(map(len, text.splitlines())) <= 160


def test_a_folder_that_cannot_be_made_ends_the_script_before_it_writes(tmp_path):
    (tmp_path / "file").touch()
    here = tmp_path / "here"
    here.mkdir()
    known = {"SIZE": "smoke", "RUN": str(tmp_path / "file" / "run"), "PYTHON": "/bin/true"}
    ended = subprocess.run(
        ["bash", SCRIPT], env=os.environ | known, cwd=here, capture_output=True, text=True
    )
    assert ended.returncode != 0
    assert "mkdir" in ended.stderr
    assert "==" not in ended.stdout
    assert not list(here.iterdir())
