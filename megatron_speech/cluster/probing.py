"""Run probes side by side within a time limit; standard library only."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a probe said before it ended or its time was up."""

    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By what was tried."""
    text: str = ""
    """All that was printed."""
    ended: str | None = None
    """How the process ended early, in words; None if it came to its end."""

    def get(self, name: str) -> Mapping[str, Any]:
        """Facts of one trial; an `error` where it was not reached."""
        return self.facts.get(name, {"error": self.ended or "said nothing"})

    @property
    def is_late(self) -> bool:
        """Nothing is known because time was up."""
        return self.ended is not None and self.ended.startswith("no answer")


def run_probes(commands: Mapping[str, Sequence[str]], deadline: float) -> dict[str, Answer]:
    """Start all probes, wait for them until `deadline` (time.monotonic), kill the rest.

    `commands` are the arguments of `probes.py`, or with a path in front those of another program.
    """
    seconds = max(deadline - time.monotonic(), 0.0)
    with tempfile.TemporaryDirectory(prefix="doctor-") as name:
        running = {key: _start(command, Path(name) / key) for key, command in commands.items()}
        while time.monotonic() < deadline:
            if all(process.poll() is not None for process in running.values()):
                break
            time.sleep(0.02)
        codes = {key: process.poll() for key, process in running.items()}
        for key, process in running.items():
            if codes[key] is None:
                os.killpg(process.pid, signal.SIGKILL)
        return {key: _read(Path(name) / key, codes[key], seconds) for key in commands}


def _start(command: Sequence[str], output: Path) -> subprocess.Popen:
    line = list(command)
    if not os.path.isabs(line[0]):
        line = [sys.executable, "-m", "megatron_speech.cluster.probes", *line]
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
    with open(output, "wb") as stream:  # a file: a pipe that nobody reads would block
        return subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )


def _read(output: Path, code: int | None, seconds: float) -> Answer:
    facts: dict[str, dict[str, Any]] = {}
    text = output.read_text(errors="replace")
    for line in text.splitlines():
        try:
            fact = json.loads(line)
            facts[fact.pop("name")] = fact
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # libraries print too
    if code is None:
        return Answer(facts=facts, text=text, ended=f"no answer within {seconds:.1f} s")
    if code < 0:
        return Answer(facts=facts, text=text, ended=f"crashed ({signal.Signals(-code).name})")
    return Answer(facts=facts, text=text, ended=f"ended with code {code}" if code else None)
