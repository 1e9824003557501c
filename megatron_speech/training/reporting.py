"""What a run tells: Megatron's log line, metrics.jsonl for plots, TensorBoard and W&B."""

import io
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..io.files import json_text, read_bytes
from .loop_config import LoopConfig
from .task import Metrics

PROCESS_TIMES = (" time slowest (ms)", " time median (ms)", " slowest rank")
"""Ends of the names of what tells the processes of a run apart; the line says it in words."""
_METRICS_FILE = "metrics.jsonl"
_SUMMED = "number of skipped iterations"
_SUFFIXES = {"valid": " validation"}


class Reporter:
    """Writes metrics of the main rank. A resumed run overwrites what came after its checkpoint."""

    def __init__(self, run: Path, first_iteration: int, config: LoopConfig):
        run.mkdir(parents=True, exist_ok=True)
        self._train_iters = config.train_iters
        self._path = run / _METRICS_FILE
        _drop_after(self._path, first_iteration)
        self._stream = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (see close)
        self._board: Any = None
        if config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(run / "tensorboard", purge_step=first_iteration + 1)
        self._wandb: Any = None
        if config.wandb_project is not None:
            import wandb

            self._wandb = wandb.init(
                project=config.wandb_project,
                name=config.wandb_exp_name or run.name,
                id=_wandb_id(run, wandb),
                dir=run,
                resume="allow",
            )

    def record(self, kind: str, iteration: int, metrics: Metrics) -> None:
        """Store metrics of one step; `kind` is train, valid or interval (throughput, memory)."""
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._write({"kind": kind, "iteration": iteration, **finite})
        named = {name + _SUFFIXES.get(kind, ""): value for name, value in finite.items()}
        if self._board is not None:
            for name, value in named.items():
                self._board.add_scalar(name, value, iteration)
        if self._wandb is not None:
            self._wandb.log(named, step=iteration)

    def event(self, iteration: int, text: str) -> None:
        """Print and keep something that happened to the run."""
        print(text, flush=True)
        self._write({"kind": "event", "iteration": iteration, "text": text})

    def go_back(self, iteration: int) -> None:
        """Forget the steps after `iteration`: they are done anew."""
        self._stream.close()
        _drop_after(self._path, iteration)
        self._stream = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (see close)

    def log_train(self, iteration: int, metrics: Metrics, ms_per_iteration: float) -> None:
        """Print Megatron's training line for the interval that ends at `iteration`."""
        shown = dict(metrics)
        skipped, norm = int(shown.pop(_SUMMED, 0)), shown.pop("grad-norm", None)
        parts = [f" iteration {iteration:8d}/{self._train_iters:8d}"]
        parts.append(f"consumed samples: {int(shown.pop('consumed samples', 0)):12d}")
        parts.append(f"elapsed time per iteration (ms): {ms_per_iteration:.1f}")
        for name in ("throughput per GPU (TFLOP/s/GPU)", "tokens/s/GPU", "MFU (%)", "memory (GiB)"):
            if name in shown:
                parts.append(f"{name}: {shown.pop(name):.1f}")
        parts.append(f"learning rate: {shown.pop('learning-rate', 0.0):.6E}")
        parts.append(f"global batch size: {int(shown.pop('batch-size', 0)):5d}")
        slow = {name: shown.pop(name) for name in list(shown) if name.endswith(PROCESS_TIMES)}
        parts += [f"{n}: {value:.6E}" for n, value in shown.items() if "grad-norm" not in n]
        if norm is not None:
            parts.append(f"grad norm: {norm:.3f}")
        parts.append(f"number of skipped iterations: {skipped:3d}")
        if "forward slowest rank" in slow:
            rank, most = int(slow["forward slowest rank"]), slow["forward time slowest (ms)"]
            usual = slow["forward time median (ms)"]
            parts.append(f"slowest forward: rank {rank} ({most / max(usual, 1e-9):.2f} x median)")
        print(time.strftime("[%Y-%m-%d %H:%M:%S]") + " | ".join(parts) + " |", flush=True)

    def log_valid(self, iteration: int, metrics: Metrics) -> None:
        """Print the validation line."""
        values = " | ".join(f"{name}: {value:.6E}" for name, value in metrics.items())
        print(f" validation loss at iteration {iteration} | {values} |", flush=True)

    def close(self) -> None:
        """Flush and close the files."""
        self._stream.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _write(self, record: dict[str, Any]) -> None:
        self._stream.write(json_text(record, ensure_ascii=True) + "\n")
        self._stream.flush()


class Interval:
    """Means of the metrics since the last log line, and time per step."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)
        self._steps = 0
        self._seconds = 0.0
        self._clock = time.monotonic()

    def restart_clock(self) -> None:
        """Leave out the time since the last step (evaluation, saving)."""
        self._clock = time.monotonic()

    def add(self, metrics: Metrics) -> None:
        """Count a step; of one that changed nothing only that it was."""
        now = time.monotonic()
        self._seconds += now - self._clock
        self._clock = now
        self._steps += 1
        for name, value in metrics.items():
            if not metrics.get(_SUMMED) or name == _SUMMED or "loss" not in name:
                self._values[name].append(value)

    def take(self) -> tuple[Metrics, float, float]:
        """Means of losses and times and last values of the rest; seconds in all and per step."""
        figures = {}
        for name, values in self._values.items():
            mean = "loss" in name or "time" in name
            figures[name] = sum(values) / len(values) if mean else values[-1]
        if _SUMMED in figures:
            figures[_SUMMED] = sum(self._values[_SUMMED])
        seconds, steps = self._seconds, max(self._steps, 1)
        self._values.clear()
        self._steps, self._seconds = 0, 0.0
        return figures, seconds, seconds / steps


def read_metrics(run: Path, kind: str = "train") -> list[dict]:
    """The recorded metrics of a run, in order of iteration.

    Raises:
        DataError: a line is damaged.
    """
    lines = _whole_lines(run / _METRICS_FILE)
    return [record for _, record in lines if record["kind"] == kind]


def _whole_lines(path: Path) -> Iterator[tuple[str, dict]]:
    """Lines and what they record, without a torn last one: the run may have been killed."""
    text = read_bytes(path).decode("utf-8", "replace")
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.endswith("\n"):
            return
        try:
            record = json.loads(line)
            whole = isinstance(record["kind"], str) and isinstance(record["iteration"], int)
            if not whole:
                raise TypeError(line.strip())
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path} is damaged in line {number} ({error!r}); remove that line"
            ) from None
        yield line, record


def _wandb_id(run: Path, wandb: Any) -> str:
    """The run's id there, kept in its folder so that a resumed run goes on under it."""
    path = run / "wandb_id.txt"
    if not path.exists():
        path.write_text(wandb.util.generate_id(), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _drop_after(path: Path, iteration: int) -> None:
    """Keep only lines up to `iteration`, and only whole ones: a killed run may tear the last."""
    if not path.exists():
        return
    kept = [line for line, record in _whole_lines(path) if record["iteration"] <= iteration]
    temporary = path.with_suffix(".part")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)
