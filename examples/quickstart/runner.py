"""Stages in order, each done once: a second run continues where the first was stopped."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.quickstart.sizes import DemoSize
from megatron_speech.corpus.sources import find_texts, fingerprint_inputs
from megatron_speech.files import fingerprint_of, read_json, write_json

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """One run of the demo: its size, its folder, its machine, the user's text if given."""

    size: DemoSize
    output: Path
    machine: dict[str, Any]
    text: tuple[str, ...] = ()

    @property
    def bf16(self) -> bool:
        """Whether the machine multiplies faster in bf16."""
        return self.machine["precision"] == "bf16"

    def path(self, *parts: str) -> Path:
        """A path in the run's folder."""
        return self.output.joinpath(*parts)

    def identity(self) -> str:
        """Fingerprint of what every stage depends on: precision, and the user's text.

        Raises:
            DataError: there is no such text.
        """
        texts = fingerprint_inputs(find_texts(self.text)) if self.text else []
        return fingerprint_of(self.machine["precision"], repr(texts))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of the chain. `run` may be stopped anywhere and called again."""

    name: str
    title: str
    run: Callable[[Demo, "Done"], Figures]
    settings: tuple[str, ...] = ()
    """Fields of DemoSize the stage depends on, beside all that came before it."""
    folders: tuple[str, ...] = ()
    """What it writes: removed if it was begun with other settings."""


class Done(dict[str, Figures]):
    """Figures of the stages done, by name."""


def run_stages(stages: Sequence[Stage], demo: Demo) -> tuple[Done, dict[str, float]]:
    """Run what is not done yet, in order; return all figures and the seconds of each stage.

    A stage is done if its marker carries the fingerprint of its settings and of every stage
    before it. One that was begun with other settings starts afresh.
    """
    done, seconds, chain = Done(), {}, demo.identity()
    for number, stage in enumerate(stages, start=1):
        chain = fingerprint_of(chain, stage.name, repr(_settings(stage, demo)))
        marker = demo.path("stages", f"{stage.name}.json")
        _banner(number, len(stages), stage.title)
        if (state := _read(marker)).get("done") == chain:
            print(f"done before, in {state['seconds']:.1f} s", flush=True)
        else:
            state = _run(stage, demo, done, marker, chain)
        done[stage.name] = state["figures"]
        seconds[stage.name] = state["seconds"]
    return done, seconds


def _run(stage: Stage, demo: Demo, done: Done, marker: Path, chain: str) -> dict[str, Any]:
    state = _read(marker)
    if state.get("begun") != chain:
        for folder in stage.folders:
            shutil.rmtree(demo.path(folder), ignore_errors=True)
        state = {"begun": chain, "seconds": 0.0}
        write_json(marker, state)
    started = time.monotonic()
    try:
        state["figures"] = stage.run(demo, done)
        state["done"] = chain
    finally:
        state["seconds"] += time.monotonic() - started
        write_json(marker, state)
    print(f"[{stage.name}: {state['seconds']:.1f} s]", flush=True)
    return state


def _settings(stage: Stage, demo: Demo) -> dict[str, Any]:
    return {name: getattr(demo.size, name) for name in stage.settings}


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _banner(number: int, total: int, title: str) -> None:
    print(f"\n──── {number}/{total}  {title} " + "─" * max(4, 70 - len(title)), flush=True)


def to_flags(**values: Any) -> list[str]:
    """`manifest=a, codes=[b, c]` as --manifest a --codes b c."""
    flags = []
    for name, value in values.items():
        parts = value if isinstance(value, list | tuple) else [value]
        flags += [f"--{name.replace('_', '-')}", *map(str, parts)]
    return flags


def require_finished(finished: bool) -> None:
    """A training that caught a stop signal has saved its state; stop the demo as well."""
    if not finished:
        raise KeyboardInterrupt
