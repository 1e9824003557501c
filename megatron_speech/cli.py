"""Command lines made from typed dataclasses: every field a flag, every recipe a subcommand."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from .jobs.program import run
from .jobs.starting import INTERRUPTED

__all__ = ["INTERRUPTED", "parse", "parse_recipe", "run"]

Config = TypeVar("Config")

_STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)


def parse(config: type[Config], argv: Sequence[str] | None, description: str | None) -> Config:
    """Read a dataclass from the command line; an unknown flag exits with the nearest names."""
    return tyro.cli(config, args=argv, description=description, config=_STYLE)


def parse_recipe(
    recipes: Mapping[str, Callable[[], Any]],
    argv: Sequence[str] | None,
    description: str | None,
    overridden: Callable[[Any], Any] = lambda config: config,
) -> tuple[str, Any]:
    """Read a recipe's name and the fields that override it.

    `recipes` maps each name to a function returning a full config; the function's docstring is
    the recipe's help. `overridden` makes of it what the command line overrides. Returns the name
    chosen and its config.
    """
    built = {name: overridden(recipe()) for name, recipe in recipes.items()}
    names = {name: (recipe.__doc__ or "").strip() for name, recipe in recipes.items()}
    arguments = list(sys.argv[1:] if argv is None else argv)
    chosen = tyro.extras.overridable_config_cli(
        {name: (names[name], built[name]) for name in recipes},
        args=arguments,
        description=description,
        config=_STYLE,
    )
    return next(argument for argument in arguments if argument in recipes), chosen
