from dataclasses import dataclass, field

import pytest

from megatron_speech import cli
from megatron_speech.errors import ConfigError


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
