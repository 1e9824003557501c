"""Which packages are here, and whether they are of the versions the checkout asks for.

Reads metadata, setup.py and constraints.txt without importing or running any of them.
"""

import ast
import re
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from ..training.distributions import installed_version

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?(.*)")
_BOUND = re.compile(r"(>=|<=|==|!=|<|>)\s*([\w.+!-]+)")


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A package a checkout asks for."""

    name: str
    bounds: str
    """As in setup.py: >=5.0,<6."""
    tested: str | None
    """Version in constraints.txt."""
    installed: str | None

    @property
    def is_in_range(self) -> bool:
        """Whether what is installed satisfies every bound."""
        return self.installed is not None and all(
            _holds(self.installed, sign, bound) for sign, bound in _BOUND.findall(self.bounds)
        )


def installed_beginning_with(name: str) -> list[str]:
    """Distributions of that name, or that add a word to it: all parts of a divided package."""
    wanted = _normal(name)
    found = {_normal(each.name) for each in distributions() if each.name}
    return sorted(each for each in found if each == wanted or each.startswith(wanted + "-"))


def requirements(checkout: Path) -> list[Requirement]:
    """What `install_requires` in setup.py asks for; empty where it cannot be read."""
    tested = dict(_pins(checkout / "constraints.txt"))
    found = []
    for line in _install_requires(checkout / "setup.py"):
        match = _REQUIREMENT.fullmatch(line.strip())
        if match is None:
            continue
        name = match[1]
        found.append(
            Requirement(
                name=name,
                bounds=match[2].strip(),
                tested=tested.get(_normal(name)),
                installed=installed_version(name),
            )
        )
    return found


def _install_requires(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "install_requires":
            return ast.literal_eval(node.value)
    return []


def _pins(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    pairs = (line.partition("#")[0].strip().split("==") for line in lines)
    return [(_normal(pair[0]), pair[1]) for pair in pairs if len(pair) == 2]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _holds(installed: str, sign: str, bound: str) -> bool:
    one, other = _release(installed), _release(bound)
    length = max(len(one), len(other))
    one += (0,) * (length - len(one))
    other += (0,) * (length - len(other))
    return {
        ">=": one >= other,
        "<=": one <= other,
        "==": one == other,
        "!=": one != other,
        "<": one < other,
        ">": one > other,
    }[sign]


def _release(text: str) -> tuple[int, ...]:
    """2.11.0a0+nv26.6 -> (2, 11, 0): builds of vendors count as the release they are of."""
    match = re.match(r"\d+(\.\d+)*", text.removeprefix("v"))
    return tuple(map(int, match[0].split("."))) if match else ()
