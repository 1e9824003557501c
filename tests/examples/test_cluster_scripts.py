"""The Slurm scripts of examples/: every command they would run is one the tools take."""

import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from megatron_speech import cli
from megatron_speech.recipes import lm_check, lm_recipes
from megatron_speech.training.installed import Installed

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.sbatch"))
SIZES = ("paper", "smoke")
H100 = Installed(
    gpu="NVIDIA H100 80GB HBM3", compute_capability=(9, 0), transformer_engine="2.20", apex=True
)
GLM_4_VOCABULARY = 168_960  # with 16,384 codes, padded


class Parsed(Exception):
    """What a tool understood, before it does anything."""


@pytest.fixture
def only_parse(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)  # as where it is meant to run

    def stop(parse):
        def parsed(*arguments):
            raise Parsed(parse(*arguments))

        return parsed

    for name in ("parse", "parse_recipe"):
        monkeypatch.setattr(cli, name, stop(getattr(cli, name)))


def shown(script: Path, *arguments: str, **settings: str) -> list[list[str]]:
    """The commands a script would give to Slurm."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    done = subprocess.run(
        ["bash", script, *arguments],
        cwd=ROOT,
        env={**environment, "PYTHON": sys.executable, "DRY_RUN": "1", **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("srun ")]


def understood(command: list[str]):
    """What the tool in a command makes of its arguments."""
    place = next(n for n, word in enumerate(command) if word.endswith(".py"))
    tool = import_module(command[place].removesuffix(".py").replace("/", "."))
    with pytest.raises(Parsed) as parsed:
        tool.main(command[place + 1 :])
    return parsed.value.args[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_tools_take_the_flags_of_every_stage(script, size, tmp_path, only_parse):
    environment = {"SIZE": size}
    if script.name.startswith("01") and size == "paper":
        there = tmp_path / "there"
        there.touch()
        text = (ROOT / "examples" / "common.sh").read_text()
        names = re.findall(r': "\$\{([A-Z_]+):=', text) + re.findall(r'" "\$\{([A-Z_]+):=', text)
        environment |= {n: str(there) for n in names if n not in ("SIZE", "RUNS", "DRY_RUN")}
        environment |= {"CONTAINER": "", "MOUNTS": ""}
        assert shown(script, **environment) == []
        return
    commands = shown(script, **environment)
    assert commands, "nothing would run"
    for command in commands:
        understood(command)


@pytest.mark.parametrize(
    ("stage", "settings", "nodes"),
    [
        ("07_text_to_token", {}, None),
        ("13_pretrain_1.5b", {}, None),
        ("13_pretrain_1.5b", {"TP": "2"}, 4),
        ("14_pretrain_9b_1t", {}, None),
        ("14_pretrain_9b_1t", {"TP": "4", "PP": "2"}, 16),
        ("14_pretrain_9b_1t", {"TP": "1", "PP": "4", "FP8": "blockwise"}, 8),
        ("14_pretrain_9b_1t", {"FP8": "delayed"}, 128),
        ("14_pretrain_9b_1t", {"FP8": "off", "STEPS": "1000"}, 8),
    ],
)
def test_layouts_fit_the_nodes_they_ask_for(stage, settings, nodes, only_parse):
    script = ROOT / "examples" / f"{stage}.sbatch"
    asked = dict(re.findall(r"^#SBATCH --(nodes|gpus-per-node)=(\d+)$", script.read_text(), re.M))
    command = next(c for c in shown(script, **settings) if "tools/pretrain.py" in c)
    _, config = understood(command)
    assert isinstance(config, lm_recipes.LMConfig)
    world_size = (nodes or int(asked["nodes"])) * int(asked["gpus-per-node"])
    lm_check.check_settings(config, GLM_4_VOCABULARY, world_size, H100)
    if stage.startswith("14"):
        tokens = config.loop.train_iters * config.batch.global_batch_size * config.data.seq_length
        if "STEPS" not in settings:
            assert 1e12 <= tokens < 1e12 + config.batch.global_batch_size * config.data.seq_length
        rates = config.batch.lr, config.batch.min_lr, config.batch.lr_decay_style
        assert rates == (6e-5, 6e-6, "linear")
        assert (config.precision.fp8_format is None) == (settings.get("FP8") == "off")


def test_further_flags_go_to_the_tool_and_win(only_parse):
    script = ROOT / "examples" / "14_pretrain_9b_1t.sbatch"
    (command,) = shown(script, "--lr", "3e-5", "--seed", "7")
    _, config = understood(command)
    assert (config.batch.lr, config.batch.seed) == (3e-5, 7)


def test_a_container_is_given_to_every_step():
    settings = {"CONTAINER": "nvcr.io#nvidia/pytorch", "MOUNTS": "/data:/data"}
    for script in SCRIPTS[1:]:
        for command in shown(script, **settings):
            assert "--container-image=nvcr.io#nvidia/pytorch" in command
            assert "--container-mounts=/data:/data" in command


def test_what_is_missing_is_said_before_anything_runs(tmp_path):
    missing = subprocess.run(
        ["bash", ROOT / "examples" / "01_data.sbatch"],
        cwd=ROOT,
        env={**os.environ, "SIZE": "paper", "BASE": str(tmp_path / "nowhere")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert missing.returncode == 2
    assert f"error: BASE: there is no {tmp_path}/nowhere" in missing.stderr


def test_settings_that_mean_nothing_are_refused():
    for settings, expected in (
        ({"SIZE": "huge"}, "SIZE is 'huge'; expected paper or smoke"),
        ({"SET": "noise"}, "SET is 'noise'; expected one of"),
        ({}, "no Slurm job; submit with: sbatch"),
    ):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        done = subprocess.run(
            ["bash", "examples/03_tokenize_speech.sbatch"],
            cwd=ROOT,
            env={**environment, **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert expected in done.stderr


def test_a_stage_that_is_not_there_is_refused(tmp_path):
    done = subprocess.run(
        ["bash", "examples/submit_all.sh", "40"],
        cwd=ROOT,
        env={**os.environ, "DRY_RUN": "1", "RUNS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "there is no stage from 40 to 99" in done.stderr


@pytest.mark.parametrize(
    ("chat", "last", "trainings"), [("", 16, "02 07 13 14"), ("1", 25, "02 07 13 14")]
)
def test_the_whole_chain_is_submitted_in_order(chat, last, trainings, tmp_path):
    """Each stage is submitted, and only behind stages that were submitted before it."""
    done = subprocess.run(
        ["bash", "examples/submit_all.sh"],
        cwd=ROOT,
        env={**os.environ, "DRY_RUN": "1", "RUNS": str(tmp_path), "NODES": "16", "CHAT": chat},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    scripts = [line.split("examples/")[1] for line in lines]
    assert set(scripts) == {script.name for script in SCRIPTS if int(script.name[:2]) <= last}
    for number, line in enumerate(lines):
        before = {name[:2] for name in scripts[:number]}
        waits = re.search(r"afterok:(\S+)", line)
        assert waits or number == 0
        if waits:
            assert set(re.findall(r"\d\d", waits[1])) <= before, line
    large = [line for line in lines if "--nodes=16" in line]
    assert [line.split("examples/")[1][:2] for line in large] == trainings.split()
