"""Command lines made from typed dataclasses: every field a flag, every recipe a subcommand."""

import errno
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from .errors import MegatronSpeechError

Config = TypeVar("Config")

INTERRUPTED = 130
"""Exit status of a tool that was stopped and can be continued, as shells have it for Ctrl-C."""
_STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)


def parse(config: type[Config], argv: Sequence[str] | None, description: str | None) -> Config:
    """Read a dataclass from the command line; an unknown flag exits with the nearest names."""
    return tyro.cli(config, args=argv, description=description, config=_STYLE)


def parse_recipe(
    recipes: Mapping[str, Callable[[], Any]], argv: Sequence[str] | None, description: str | None
) -> tuple[str, Any]:
    """Read a recipe's name and the fields that override it.

    `recipes` maps each name to a function returning a full config; the function's docstring is
    the recipe's help. Returns the name chosen and its config.
    """
    built = {name: recipe() for name, recipe in recipes.items()}
    names = {name: (recipe.__doc__ or "").strip() for name, recipe in recipes.items()}
    arguments = list(sys.argv[1:] if argv is None else argv)
    chosen = tyro.extras.overridable_config_cli(
        {name: (names[name], built[name]) for name in recipes},
        args=arguments,
        description=description,
        config=_STYLE,
    )
    return next(argument for argument in arguments if argument in recipes), chosen


def run(main: Callable[[], Any]) -> None:
    """Call a tool's `main`; an error meant for people is printed as such and exits with 2."""
    try:
        main()
    except MegatronSpeechError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: no disk space left while writing: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
