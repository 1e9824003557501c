"""Commands of shell blocks taken apart, and whether a tool's own parser accepts their flags."""

import argparse
import contextlib
import importlib.util
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from megatron_speech import cli
from tests.docs.pages import ROOT

ENDS = {"|", "||", "&&", ";", "&", "(", ")", "<", ">", ">>", "2>", "2>&1"}
ENDS |= {"do", "done", "then", "fi", "else"}


class Parsed(Exception):
    """The tool has read its arguments; nothing was done yet."""


def commands(text: str) -> list[list[str]]:
    """The simple commands of a shell text, each as its words; comments are left out."""
    found: list[list[str]] = []
    pending = ""
    for line in text.replace("\\\n", " ").splitlines():
        pending += line
        lexer = shlex.shlex(pending, posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        try:
            line_words = list(lexer)
        except ValueError:  # a quotation goes on in the next line
            pending += "\n"
            continue
        pending = ""
        words: list[str] = []
        for word in [*line_words, ";"]:
            if word in ENDS:
                if words:
                    found.append(words)
                words = []
            else:
                words.append(word)
    return found


def python_calls(text: str) -> Iterator[tuple[Path, list[str]]]:
    """Scripts of this repository that a shell text starts, with their arguments.

    `python x.py`, `torchrun ... x.py`, `srun ... x.py`: what follows the script is its own.
    """
    for words in commands(text):
        for place, word in enumerate(words):
            if word.endswith(".py") and not word.startswith("-"):
                yield ROOT / word, words[place + 1 :]
                break


def complaint(script: Path, arguments: list[str]) -> str:
    """What the script's parser says against the arguments; empty if it takes them."""
    if not script.is_file():
        return f"{script} does not exist"
    main = load(script).main
    with _stop_after_parsing(), contextlib.suppress(Parsed):
        try:
            main(arguments)
        except SystemExit as stopped:
            return f"{script.name} exits with {stopped.code}" if stopped.code else ""
        except ValueError as error:
            return str(error)
        return f"{script.name} did something without reading its arguments"
    return ""


def load(script: Path):
    """The script as a module; once a session, since some of them import for seconds."""
    name = "_".join(script.relative_to(ROOT).with_suffix("").parts)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, script)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        with mock.patch.object(sys, "path", [str(script.parent), *sys.path]):
            spec.loader.exec_module(module)
    return sys.modules[name]


@contextlib.contextmanager
def _stop_after_parsing():
    def stop(parse):
        def parse_and_stop(*args, **kwargs):
            parse(*args, **kwargs)
            raise Parsed

        return parse_and_stop

    with (
        mock.patch("torch.cuda.device_count", return_value=8),  # as where it is meant to run
        mock.patch.object(cli, "parse", stop(cli.parse)),
        mock.patch.object(cli, "parse_recipe", stop(cli.parse_recipe)),
        mock.patch.object(  # of the few tools that must start where tyro is missing
            argparse.ArgumentParser, "parse_args", stop(argparse.ArgumentParser.parse_args)
        ),
    ):
        yield
