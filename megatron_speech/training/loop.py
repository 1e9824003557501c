"""The one training loop: steps, signals, checkpoints, exact resume, logs."""

import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from . import checkpoint
from .reporting import Reporter
from .task import Metrics, Trainer


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long to train, and when to log, evaluate and save."""

    train_iters: int = 1000
    """Optimizer steps in all."""
    save: Path | None = None
    """Folder of the run: checkpoints, log, TensorBoard. A run found there is continued."""
    load: Path | None = None
    """Folder to take the first checkpoint from, if `save` holds none yet."""
    save_interval: int = 500
    """Steps between checkpoints."""
    keep_last: int | None = 2
    """Checkpoints to keep; None keeps all."""
    log_interval: int = 20
    """Steps between log lines; their losses are means over the interval."""
    eval_interval: int = 250
    """Steps between evaluations; 0 evaluates at the end only."""
    tensorboard: bool = True
    """Write TensorBoard scalars beside the checkpoints."""
    exit_duration_in_mins: float | None = None
    """Save and stop after this many minutes."""
    exit_interval: int | None = None
    """Save and stop at a step that this divides."""

    def __post_init__(self) -> None:
        for name in ("train_iters", "save_interval", "log_interval"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give >= 1")
        if self.exit_interval is not None and self.exit_interval < 1:
            raise ConfigError(f"--exit-interval is {self.exit_interval}; give >= 1")
        if self.keep_last is not None and self.keep_last < 1:
            raise ConfigError(f"--keep-last is {self.keep_last}; give >= 1 or none to keep all")


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """How a call of `train` ended."""

    iteration: int
    """Steps done in all, earlier runs included."""
    finished: bool
    """False if it stopped early (signal, time limit) and should be started again."""
    metrics: Metrics
    """Last training interval and last validation (`... validation`)."""


def train(trainer: Trainer, config: LoopConfig) -> LoopResult:
    """Train until `train_iters`, continuing from the newest checkpoint.

    SIGTERM, SIGUSR1 and SIGINT finish the step, save and return with `finished=False`. In the
    last step nothing is left to stop: the run is evaluated and saved. A scheduler's signal is then
    done with (`finished=True`); a person's Ctrl-C still ends the program.

    Raises:
        KeyboardInterrupt: Ctrl-C in the last step, after the last checkpoint; or pressed twice.
    """
    first = _resume(trainer, config)
    reporter = None
    if config.save is not None and trainer.is_main_rank:
        reporter = Reporter(config.save, config.train_iters, first, config.tensorboard)
    started, interval, last = time.monotonic(), _Interval(), {}
    iteration, stopped, reason = first, False, None
    checkpoints = checkpoint.Checkpoints(trainer, config.save, config.keep_last, first)
    with _stop_signals() as signals:
        while iteration < config.train_iters and not stopped:
            metrics = trainer.train_step(iteration)
            iteration += 1
            interval.add(metrics)
            if reporter is not None:
                reporter.record("train", iteration, metrics)
            if iteration % config.log_interval == 0 or iteration == config.train_iters:
                means, milliseconds = interval.take()
                last.update(means)
                if reporter is not None:
                    reporter.log_train(iteration, means, milliseconds)
            checkpoints.poll()
            reason = _reason_to_stop(config, signals, iteration, time.monotonic() - started)
            stopped = trainer.any_rank(reason is not None) and iteration < config.train_iters
            if _is_due(iteration, config.eval_interval, config.train_iters) and not stopped:
                last.update(_evaluate(trainer, iteration, reporter))
                interval.restart_clock()
            if stopped or iteration % config.save_interval == 0:
                checkpoints.save(iteration)
                interval.restart_clock()
        checkpoints.save(iteration)
        checkpoints.finish()
        if stopped and trainer.is_main_rank:
            print(_stopping(reason, iteration, config.save), flush=True)
        if reporter is not None:
            reporter.close()
        interrupted = trainer.any_rank(signal.SIGINT in signals)
    if interrupted and not stopped:
        raise KeyboardInterrupt
    return LoopResult(iteration=iteration, finished=iteration >= config.train_iters, metrics=last)


def _resume(trainer: Trainer, config: LoopConfig) -> int:
    found = checkpoint.find(config.save, config.load)
    if found is not None:
        iteration, directory = found
        trainer.load(directory)
        if trainer.is_main_rank:
            print(f"resuming from step {iteration} in {directory.parent}", flush=True)
        return iteration
    if config.load is not None:
        raise ConfigError(f"--load {config.load}: no checkpoint found there")
    return 0


def _reason_to_stop(
    config: LoopConfig, signals: list[int], iteration: int, seconds: float
) -> str | None:
    if signals:
        return f"{signal.Signals(signals[0]).name} received"
    limit = config.exit_duration_in_mins
    if limit is not None and seconds >= 60 * limit:
        return f"--exit-duration-in-mins {limit:g} is over"
    if config.exit_interval is not None and iteration % config.exit_interval == 0:
        return f"--exit-interval {config.exit_interval} is reached"
    return None


def _stopping(reason: str | None, iteration: int, save: Path | None) -> str:
    """What a person, or a scheduler's log, is told about a run that ends early."""
    kept = f"saved in {save}, the same command continues" if save else "nothing is saved"
    return f"stopped at step {iteration}: {reason or 'another process asked for it'}; {kept}"


def _evaluate(trainer: Trainer, iteration: int, reporter: Reporter | None) -> Metrics:
    metrics = trainer.evaluate(iteration)
    if metrics and reporter is not None:
        reporter.record("valid", iteration, metrics)
        reporter.log_valid(iteration, metrics)
    return {f"{name} validation": value for name, value in metrics.items()}


def _is_due(iteration: int, interval: int, last: int) -> bool:
    return iteration == last or (interval > 0 and iteration % interval == 0)


class _Interval:
    """Means of the metrics since the last log line, and time per step."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)
        self._steps = 0
        self._seconds = 0.0
        self._clock = time.monotonic()

    def restart_clock(self) -> None:
        self._clock = time.monotonic()

    def add(self, metrics: Metrics) -> None:
        now = time.monotonic()
        self._seconds += now - self._clock
        self._clock = now
        self._steps += 1
        for name, value in metrics.items():
            self._values[name].append(value)

    def take(self) -> tuple[Metrics, float]:
        means = {
            name: sum(v) / len(v) if "loss" in name or "time" in name else v[-1]
            for name, v in self._values.items()
        }
        milliseconds = 1000 * self._seconds / max(self._steps, 1)
        self._values.clear()
        self._steps, self._seconds = 0, 0.0
        return means, milliseconds


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect stop signals instead of dying in the middle of a step."""
    received: list[int] = []
    wanted = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def remember(number: int, _frame: object) -> None:
        if number == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, remember) for number in wanted}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
