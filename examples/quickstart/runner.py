"""Stages, each done once: a second run continues where the first was stopped."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from examples.quickstart.side_by_side import AT_ONCE, SideBySide
from megatron_speech.io.files import fingerprint_of, read_json, write_json
from megatron_speech.io.model_folders import model_fingerprint
from megatron_speech.jobs.folders import remove_folder
from megatron_speech.text.corpora import find_texts, fingerprint_inputs

Figures = dict[str, Any]
Done = Mapping[str, Figures]
"""Figures of the stages done, by name."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """One run of a demo: its size, its folder, its machine, the user's text if given."""

    size: Any
    """A dataclass: name, how much of everything, has_bars."""
    output: Path
    machine: dict[str, Any]
    text: tuple[str, ...] = ()

    @property
    def bf16(self) -> bool:
        """Whether the machine multiplies faster in bf16."""
        return self.machine["precision"] == "bf16"

    @property
    def speech_tokenizer(self) -> Path:
        """The trained speech tokenizer."""
        return self.path("speech_tokenizer", "export")

    def path(self, *parts: str) -> Path:
        """A path in the run's folder."""
        return self.output.joinpath(*parts)

    def manifest(self, name: str) -> Path:
        """The manifest of a set of recordings."""
        return self.path("speech", name, "manifest.parquet")

    def identity(self) -> str:
        """Fingerprint of what every stage depends on: precision, and the user's text.

        Raises:
            DataError: there is no such text.
        """
        texts = fingerprint_inputs(find_texts(self.text)) if self.text else []
        return fingerprint_of(self.machine["precision"], repr(texts))

    def facts(self) -> dict[str, Any]:
        """What a report says of every run."""
        return {"size": self.size.name, "machine": self.machine, "settings": asdict(self.size)}


@dataclass(frozen=True)
class Stage:
    """A step of the chain. `run` may be stopped anywhere and called again."""

    name: str
    title: str
    run: Callable[[Any, Done], Figures]
    """Picklable, if other stages may run beside it."""
    settings: tuple[str, ...] = ()
    """Fields of the size that the stage depends on, beside all that it needs."""
    after: tuple[str, ...] | None = None
    """Earlier stages that it needs; None is the one before it. Two stages of which neither needs
    the other, not even through others, may run side by side."""
    folders: tuple[str, ...] | None = None
    """What it writes: removed if it was begun with other settings. None is the one of its name."""
    models: tuple[str, ...] = ()
    """Fields of the demo that name a model on which the stage depends, or None."""


def run_stages(stages: Sequence[Stage], demo: Demo) -> tuple[dict[str, Figures], dict[str, Any]]:
    """Run what is not done yet; return all figures, and the times for the report.

    A stage is done if its marker carries the fingerprint of its settings and of every stage
    that it needs. One that was begun with other settings starts afresh.

    The times are `seconds` of each stage and `seconds_in_all`: less than their sum where some ran
    at once.
    """
    needs, keys = _needs_and_keys(stages, demo)
    states: dict[str, dict[str, Any]] = {}
    waiting = {stage.name: stage for stage in stages}
    with SideBySide() as processes:
        while len(states) < len(stages):
            ready = (s for s in waiting.values() if needs[s.name] <= states.keys())
            stage = next(ready, None) if len(processes) < AT_ONCE else None
            if stage is None:
                for name in processes.wait():
                    states[name] = _read(_marker(demo, name))
                continue
            del waiting[stage.name]
            line = "─" * max(4, 70 - len(stage.title))
            place = f"{stages.index(stage) + 1}/{len(stages)}"
            print(f"\n──── {place}  {stage.title} {line}", flush=True)
            figures = {name: states[name]["figures"] for name in needs[stage.name]}
            work = partial(_run, stage, demo, figures, keys[stage.name], time.time())
            if (state := _read(_marker(demo, stage.name))).get("done") == keys[stage.name]:
                print(f"done before, in {state['seconds']:.1f} s", flush=True)
                states[stage.name] = state
            elif any(_may_run_at_once(stage, other, needs) for other in stages):
                processes.start(stage.name, work)
            else:
                states[stage.name] = work()
    spans = [span for state in states.values() for span in state["spans"]]
    return {stage.name: states[stage.name]["figures"] for stage in stages}, {
        "seconds": {stage.name: states[stage.name]["seconds"] for stage in stages},
        "seconds_in_all": _covered(spans),
    }


def _needs_and_keys(
    stages: Sequence[Stage], demo: Demo
) -> tuple[dict[str, set[str]], dict[str, str]]:
    """What each stage needs, directly and through others, and its fingerprint."""
    needs: dict[str, set[str]] = {}
    keys, identity, before = {}, demo.identity(), ()
    for stage in stages:
        after = before if stage.after is None else stage.after
        needs[stage.name] = set(after).union(*(needs[name] for name in after))
        settings = {name: getattr(demo.size, name) for name in stage.settings}
        above = [keys[name] for name in after] or [identity]
        given = [model for name in stage.models if (model := getattr(demo, name)) is not None]
        prints = map(model_fingerprint, given)
        keys[stage.name] = fingerprint_of(*above, stage.name, repr(settings), *prints)
        before = (stage.name,)
    return needs, keys


def _may_run_at_once(stage: Stage, other: Stage, needs: Mapping[str, set[str]]) -> bool:
    apart = other.name not in needs[stage.name] and stage.name not in needs[other.name]
    return other is not stage and apart


def _run(stage: Stage, demo: Demo, done: Done, key: str, started: float) -> dict[str, Any]:
    """The marker's contents afterwards. The time that a process takes to start counts."""
    marker = _marker(demo, stage.name)
    state = _read(marker)
    if state.get("begun") != key:
        marker.unlink(missing_ok=True)  # first: it must not outlive what it speaks of
        for folder in (stage.name,) if stage.folders is None else stage.folders:
            remove_folder(demo.path(folder))
        state = {"begun": key, "spans": []}
        write_json(marker, state)
    try:
        state["figures"] = stage.run(demo, done)
        state["done"] = key
    finally:
        state["spans"].append([started, time.time()])
        state["seconds"] = sum(end - begin for begin, end in state["spans"])
        write_json(marker, state)
    print(f"[{stage.name}: {state['seconds']:.1f} s]", flush=True)
    return state


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds in which something ran: the length of the union of the spans."""
    seconds, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        seconds += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return seconds


def _marker(demo: Demo, name: str) -> Path:
    return demo.path("stages", f"{name}.json")


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def tool(name: str, /, *words: str, **settings: Any) -> Any:
    """What the public tool of that name returns; `words` come first on its command line."""
    return import_module(f"tools.{name}").main([*words, *to_flags(**settings)])


def train(name: str, recipe: str, /, *flags: str, **settings: Any) -> Any:
    """What a tool of training returns. One that caught a stop signal has saved its state.

    Raises:
        KeyboardInterrupt: it did; the demo stops as well.
    """
    result = tool(name, recipe, *flags, **settings)
    if not result.finished:
        raise KeyboardInterrupt
    return result


def to_flags(**values: Any) -> list[str]:
    """`codes=[a, b], bf16=True, quantize=False, seed=None` as --codes a b --bf16 --no-quantize."""
    flags = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            parts = value if isinstance(value, list | tuple) else [value]
            flags += [f"--{flag}", *map(str, parts)]
    return flags
