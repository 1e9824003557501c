from dataclasses import dataclass, field

import pytest

from megatron_speech import cli
from megatron_speech.errors import ConfigError
from megatron_speech.recipes.lm_recipes import LMConfig


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float = 1e-3
    """Peak learning rate."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ConfigError(f"--lr is {self.lr}; give a positive rate")


@dataclass(frozen=True, kw_only=True)
class Run:
    optimizer: Optimizer = field(default_factory=Optimizer)
    data_path: tuple[str, ...] = ()
    """Weights and prefixes."""
    data_weights: tuple[float, ...] = ()
    bf16: bool = False
    """Compute in bfloat16."""


def small() -> Run:
    """A small run."""
    return Run()


def large() -> Run:
    """A large run."""
    return Run(optimizer=Optimizer(lr=6e-5))


RECIPES = {"lm-small": small, "lm-large": large}


def test_flags_read_like_megatrons():
    arguments = ["lm-large", "--bf16", "--data-path", "0.3", "a", "0.7", "b"]
    name, run = cli.parse_recipe(RECIPES, arguments, "Train.")
    assert name == "lm-large"
    assert run == Run(optimizer=Optimizer(lr=6e-5), data_path=("0.3", "a", "0.7", "b"), bf16=True)


@pytest.mark.parametrize(
    ("arguments", "hint"), [(["lm-large", "--lrr", "1"], "--lr"), (["lm-larg"], "lm-large")]
)
def test_unknown_flags_and_recipes_name_the_nearest(arguments, hint, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.parse_recipe(RECIPES, arguments, "Train.")
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert hint in captured.out + captured.err


@pytest.mark.parametrize("argv", [["lm-large", "--lr", "-1"], ["lm-small", "--lr", "0", "--bf16"]])
def test_what_a_config_refuses_is_said_in_its_own_words(argv, capsys):
    with pytest.raises(ConfigError, match=r"^--lr is .*; give a positive rate$"):
        cli.parse_recipe(RECIPES, argv, "Train.")
    captured = capsys.readouterr()
    assert not captured.out + captured.err


FOREIGN = {
    "use-flash": cli.ForeignFlag(says="give --bf16", instead=("--bf16",)),
    "learning-rate": cli.ForeignFlag(says="give --lr", instead=("--lr",), values=1),
    "format": cli.ForeignFlag(says="always good", values=1, only=("good",)),
    "kind": cli.ForeignFlag(says="always a", values=1, only=("a",), otherwise="give --sort"),
    "steps": cli.ForeignFlag(says="give --iters", values=1, taken=False),
    "moe-*": cli.ForeignFlag(says="no experts", taken=False),
}


def test_flags_of_another_program_are_exchanged_or_taken_out(capsys, monkeypatch):
    argv = "lm-small --use-flash --data-path 1 a --learning_rate=2 --format good --lr 3".split()
    expected = "lm-small --bf16 --data-path 1 a --lr 2 --lr 3".split()
    assert cli.translate(argv, FOREIGN, "Other") == expected
    told = "flags of Other: --use-flash is --bf16; --learning_rate is --lr; --format: always good\n"
    assert capsys.readouterr().err == told
    monkeypatch.setenv("RANK", "1")
    assert cli.translate(argv, FOREIGN, "Other") == expected
    assert cli.translate(["--bf16"], FOREIGN, "Other") == ["--bf16"]
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--steps 9 --bf16", "--steps 9 of Other: give --iters"),
        ("--format bad", "--format bad of Other: always good"),
        ("--kind=b", "--kind b of Other: give --sort"),
        ("--moe-layer-freq 1", "--moe-layer-freq of Other: no experts"),
    ],
)
def test_flags_of_another_program_that_mean_nothing_here_are_answered(argv, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        cli.translate(argv.split(), FOREIGN, "Other")


def test_the_fields_that_a_command_line_sets():
    given = cli.flags_given("lm --num-layers 2 --no-bf16 --lr=3 --data_path a-b".split())
    assert {"num_layers", "bf16", "lr", "data_path"} <= given
    assert "a_b" not in given


def test_megatrons_own_negative_flags_have_no_opposites(capsys):
    with pytest.raises(SystemExit):
        cli.parse_recipe({"lm-debug": LMConfig}, ["lm-debug", "--help"], "Train.")
    said = capsys.readouterr().out
    assert "--no-load-optim" in said
    assert "--no-no-" not in said


@pytest.mark.parametrize("flag", ["--lr", "--data-weights"])
def test_what_is_no_number_is_refused_for_every_field(flag):
    with pytest.raises(ConfigError, match=f"{flag} is nan"):
        cli.parse(Run, [flag, "nan"], "Train.")
    with pytest.raises(ConfigError, match=f"{flag} is nan"):
        cli.parse_recipe(RECIPES, ["lm-small", flag, "nan"], "Train.")
