"""Stages, each done once: a second run continues where the first was stopped."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from examples.quickstart.side_by_side import AT_ONCE, SideBySide
from examples.quickstart.sizes import DemoSize
from megatron_speech.io.files import fingerprint_of, read_json, write_json
from megatron_speech.jobs.folders import remove_folder
from megatron_speech.text.corpora import find_texts, fingerprint_inputs

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
    """Picklable, if other stages may run beside it."""
    settings: tuple[str, ...] = ()
    """Fields of DemoSize the stage depends on, beside all that it needs."""
    after: tuple[str, ...] | None = None
    """Earlier stages that it needs; None is the one before it. Two stages of which neither needs
    the other, not even through others, may run side by side."""
    folders: tuple[str, ...] = ()
    """What it writes: removed if it was begun with other settings."""


class Done(dict[str, Figures]):
    """Figures of the stages done, by name."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of each stage, and of all together: less than their sum where some ran at once."""

    stages: dict[str, float]
    whole: float


def run_stages(stages: Sequence[Stage], demo: Demo) -> tuple[Done, Times]:
    """Run what is not done yet; return all figures and times.

    A stage is done if its marker carries the fingerprint of its settings and of every stage
    that it needs. One that was begun with other settings starts afresh.
    """
    needs, keys = _all_needs(stages), _keys(stages, demo)
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
            _banner(stages.index(stage) + 1, len(stages), stage.title)
            figures = Done({name: states[name]["figures"] for name in needs[stage.name]})
            work = partial(_run, stage, demo, figures, keys[stage.name], time.time())
            if (state := _read(_marker(demo, stage.name))).get("done") == keys[stage.name]:
                print(f"done before, in {state['seconds']:.1f} s", flush=True)
                states[stage.name] = state
            elif _has_company(stage, stages, needs):
                processes.start(stage.name, work)
            else:
                states[stage.name] = work()
    seconds = {stage.name: states[stage.name]["seconds"] for stage in stages}
    whole = _covered([span for state in states.values() for span in state["spans"]])
    figures = Done({stage.name: states[stage.name]["figures"] for stage in stages})
    return figures, Times(stages=seconds, whole=whole)


def _all_needs(stages: Sequence[Stage]) -> dict[str, set[str]]:
    """What each stage needs, directly and through others."""
    found: dict[str, set[str]] = {}
    for stage, names in _needs(stages).items():
        found[stage] = set(names).union(*(found[name] for name in names))
    return found


def _needs(stages: Sequence[Stage]) -> dict[str, tuple[str, ...]]:
    before = [(), *((stage.name,) for stage in stages[:-1])]
    return {
        stage.name: last if stage.after is None else stage.after
        for stage, last in zip(stages, before, strict=True)
    }


def _keys(stages: Sequence[Stage], demo: Demo) -> dict[str, str]:
    """Fingerprints of each stage's settings and of all that it needs."""
    keys, identity, needs = {}, demo.identity(), _needs(stages)
    for stage in stages:
        before = [keys[name] for name in needs[stage.name]] or [identity]
        settings = {name: getattr(demo.size, name) for name in stage.settings}
        keys[stage.name] = fingerprint_of(*before, stage.name, repr(settings))
    return keys


def _has_company(stage: Stage, stages: Sequence[Stage], needs: dict[str, set[str]]) -> bool:
    """Whether another stage may run while this one does."""
    return any(
        other is not stage and other.name not in needs[stage.name]
        and stage.name not in needs[other.name]
        for other in stages
    )  # fmt: skip


def _run(stage: Stage, demo: Demo, done: Done, key: str, started: float) -> dict[str, Any]:
    """The marker's contents afterwards. The time that a process takes to start counts."""
    marker = _marker(demo, stage.name)
    state = _read(marker)
    if state.get("begun") != key:
        marker.unlink(missing_ok=True)  # first: it must not outlive what it speaks of
        for folder in stage.folders:
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
    """A stage's marker; without spans, of an earlier version, it gets one until its last change."""
    if not path.exists():
        return {}
    state = read_json(path)
    ended = path.stat().st_mtime
    return {"spans": [[ended - state.get("seconds", 0.0), ended]]} | state


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
