"""Command lines made from typed dataclasses: every field a flag, every recipe a subcommand."""

import io
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, fields, is_dataclass
from fnmatch import fnmatch
from typing import Any, TypeVar

import tyro

from .errors import ConfigError, MegatronSpeechError
from .jobs.program import run
from .jobs.starting import INTERRUPTED

__all__ = [
    "INTERRUPTED",
    "ForeignFlag",
    "flags_given",
    "parse",
    "parse_recipe",
    "run",
    "translate",
]

Config = TypeVar("Config")

_STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)


@dataclass(frozen=True, kw_only=True)
class ForeignFlag:
    """What becomes of a flag that another program has and this one has not."""

    says: str
    """Why nothing needs to be done, or what to give instead."""
    taken: bool = True
    """False: it is an error, with `says`."""
    values: int = 0
    """How many values it has."""
    only: tuple[str, ...] = ()
    """The values that are taken; any other is an error. All, if empty."""
    otherwise: str = ""
    """What to say then; `says` if empty."""
    instead: tuple[str, ...] = ()
    """Flags of this program that stand for it, followed by its values."""


def translate(
    argv: Sequence[str] | None, foreign: Mapping[str, ForeignFlag], program: str
) -> list[str]:
    """A command line with the flags of `program` taken out or exchanged, which a line tells.

    `foreign` has flags without their dashes, `*` standing for any end.

    Raises:
        ConfigError: one of them is not taken; says what to give instead.
    """
    rest = list(sys.argv[1:] if argv is None else argv)
    done, told = [], []
    while rest:
        word = rest.pop(0)
        found = _foreign(word, foreign)
        if found is None:
            done.append(word)
            continue
        name, equals, value = word.partition("=")
        values = [value] if equals else [rest.pop(0) for _ in rest[: found.values]]
        if not found.taken or (found.only and not set(values) <= set(found.only)):
            answer = (found.taken and found.otherwise) or found.says
            raise ConfigError(f"{' '.join([name, *values])} of {program}: {answer}")
        if found.instead:
            done += [*found.instead, *values]
            told.append(f"{name} is {' '.join(found.instead)}")
        else:
            told.append(f"{name}: {found.says}")
    if told and os.environ.get("RANK", "0") == "0":
        print(f"flags of {program}: {'; '.join(told)}", file=sys.stderr)
    return done


def _foreign(word: str, foreign: Mapping[str, ForeignFlag]) -> ForeignFlag | None:
    if not word.startswith("--"):
        return None
    name = _plain(word)
    return next((flag for key, flag in foreign.items() if fnmatch(name, key)), None)


def _plain(word: str) -> str:
    return word[2:].partition("=")[0].replace("_", "-")


def flags_given(argv: Sequence[str]) -> set[str]:
    """The fields that a command line sets: `--num-layers 2 --no-bf16` are num_layers and bf16."""
    names = {_plain(word) for word in argv if word.startswith("--")}
    names |= {name.removeprefix("no-") for name in names}
    return {name.replace("-", "_") for name in names}


def parse(config: type[Config], argv: Sequence[str] | None, description: str | None) -> Config:
    """Read a dataclass from the command line; an unknown flag exits with the nearest names."""
    return _parsed(lambda: tyro.cli(config, args=argv, description=description, config=_STYLE))


def _parsed(parse: Callable[[], Config]) -> Config:
    """What tyro makes of a command line; of our own errors in its words only what we said.

    It names its wrapper (`__tyro-dummy-inner__`) where the check of a config refuses it.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            config = parse()
        _refuse_nan(config)
        return config
    except SystemExit as stopped:
        cause: BaseException | None = stopped
        while cause is not None and not isinstance(cause, MegatronSpeechError):
            cause = cause.__context__
        if cause is not None:
            said.truncate(0)
            raise cause from None
        raise
    finally:
        sys.stderr.write(said.getvalue())


def _refuse_nan(config: Any) -> None:
    """Not a number is below and above no bound, so that each check would need it in mind."""
    if not is_dataclass(config):
        return
    for each in fields(config):
        value = getattr(config, each.name)
        _refuse_nan(value)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and math.isnan(number):
                raise ConfigError(f"--{each.name.replace('_', '-')} is nan; give a number")


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
    chosen = _parsed(
        lambda: tyro.extras.overridable_config_cli(
            {name: (names[name], built[name]) for name in recipes},
            args=arguments,
            description=description,
            config=_STYLE,
        )
    )
    return next(argument for argument in arguments if argument in recipes), chosen
