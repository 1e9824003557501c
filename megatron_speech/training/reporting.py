"""What a run tells: Megatron's log line, TensorBoard scalars, and metrics.jsonl for plots."""

import json
import os
import time
from pathlib import Path

from .task import Metrics

_METRICS_FILE = "metrics.jsonl"


class Reporter:
    """Writes metrics of the main rank. A resumed run overwrites what came after its checkpoint."""

    def __init__(self, run: Path, train_iters: int, first_iteration: int, tensorboard: bool):
        run.mkdir(parents=True, exist_ok=True)
        self._train_iters = train_iters
        self._metrics_path = run / _METRICS_FILE
        _drop_after(self._metrics_path, first_iteration)
        self._stream = open(self._metrics_path, "a", encoding="utf-8")  # noqa: SIM115 (see close)
        self._board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(run / "tensorboard", purge_step=first_iteration + 1)

    def record(self, kind: str, iteration: int, metrics: Metrics) -> None:
        """Store metrics of one step; `kind` is train or valid."""
        line = json.dumps({"kind": kind, "iteration": iteration, **metrics})
        self._stream.write(line + "\n")
        self._stream.flush()
        if self._board is not None:
            suffix = " validation" if kind == "valid" else ""
            for name, value in metrics.items():
                self._board.add_scalar(name + suffix, value, iteration)

    def log_train(self, iteration: int, metrics: Metrics, ms_per_iteration: float) -> None:
        """Print Megatron's training line for the interval that ends at `iteration`."""
        shown = dict(metrics)
        parts = [f" iteration {iteration:8d}/{self._train_iters:8d}"]
        parts.append(f"consumed samples: {int(shown.pop('consumed samples', 0)):12d}")
        parts.append(f"elapsed time per iteration (ms): {ms_per_iteration:.1f}")
        parts.append(f"learning rate: {shown.pop('learning-rate', 0.0):.6E}")
        parts.append(f"global batch size: {int(shown.pop('batch-size', 0)):5d}")
        grad_norm = shown.pop("grad-norm", None)
        parts += [f"{name}: {value:.6E}" for name, value in shown.items()]
        if grad_norm is not None:
            parts.append(f"grad norm: {grad_norm:.3f}")
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


def read_metrics(run: Path, kind: str = "train") -> list[dict]:
    """The recorded metrics of a run, in order of iteration."""
    with open(run / _METRICS_FILE, encoding="utf-8") as stream:
        return [record for line in stream if (record := json.loads(line))["kind"] == kind]


def _drop_after(path: Path, iteration: int) -> None:
    """Keep only lines up to `iteration`, and only whole ones: a killed run may tear the last."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n") and json.loads(line)["iteration"] <= iteration:
            kept.append(line)
    temporary = path.with_suffix(".part")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)
