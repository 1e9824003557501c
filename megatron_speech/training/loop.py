"""The one training loop: steps, signals, checkpoints, exact resume, health, logs."""

import gc
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, TrainingError
from ..jobs.progress import Progress
from . import checkpoint, heartbeats
from .health import Health, HealthConfig
from .loop_config import LoopConfig
from .reporting import Interval, Reporter, read_metrics
from .task import Metrics, Trainer


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """How a call of `train` ended."""

    iteration: int
    """Steps done in all, earlier runs included."""
    finished: bool
    """False if it stopped early (signal, time limit) and should be started again."""
    metrics: Metrics
    """Last training interval and last validation (`... validation`)."""


def train(trainer: Trainer, config: LoopConfig, health: HealthConfig | None = None) -> LoopResult:
    """Train until `train_iters`, continuing from the newest checkpoint.

    SIGTERM, SIGUSR1 and SIGINT finish the step, save and return with `finished=False`. In the
    last step nothing is left to stop: the run is evaluated and saved. A scheduler's signal is then
    done with (`finished=True`); a person's Ctrl-C still ends the program.

    Raises:
        KeyboardInterrupt: Ctrl-C in the last step, after the last checkpoint; or pressed twice.
        TrainingError: a bad step, by the policy of `health`.
    """
    config.check()
    run = _Run(trainer, config, Health(health or HealthConfig()))
    started, stopped, reason = time.monotonic(), False, None
    with (
        _garbage_collection(config),
        _stop_signals() as signals,
        _bar(trainer, config, run.iteration) as bar,
    ):
        try:
            run.make_up_for_evaluation()
            while run.iteration < config.train_iters and not stopped:
                went_on = run.step()
                bar.advance(run.iteration - bar.done)
                if not went_on:
                    continue
                run.checkpoints.poll()
                reason = _urgent_reason(config, signals, time.monotonic() - started)
                urgent = trainer.any_rank(reason is not None)
                planned = _planned_reason(config, run.iteration)
                reason = reason or planned
                stopped = (urgent or planned is not None) and run.iteration < config.train_iters
                run.evaluate_and_save(stopped, in_haste=stopped and urgent)
            run.save()
            run.checkpoints.finish()
            if stopped and trainer.is_main_rank:
                print(_stopping(reason, run.iteration, config.save), flush=True)
        finally:
            run.close()
            heartbeats.disconnect()
        interrupted = trainer.any_rank(signal.SIGINT in signals)
    if interrupted and not stopped:
        raise KeyboardInterrupt
    finished = run.iteration >= config.train_iters
    return LoopResult(iteration=run.iteration, finished=finished, metrics=run.metrics)


def _bar(trainer: Trainer, config: LoopConfig, first: int) -> Progress:
    """Steps on the main rank's terminal; elsewhere the log lines tell."""
    return Progress("training", config.train_iters, "steps", first=first, lines=False,
                    shown=trainer.is_main_rank)  # fmt: skip


class _Run:
    """Where a run stands; its methods are collective."""

    def __init__(self, trainer: Trainer, config: LoopConfig, health: Health):
        self.trainer, self.config, self.health = trainer, config, health
        self.metrics: Metrics = {}
        self.iteration = self._resume()
        self.checkpoints = checkpoint.Checkpoints(
            trainer, config.save, config.keep_last, self.iteration
        )
        self._interval = Interval()
        self._reporter = None
        if config.save is not None and trainer.is_main_rank:
            self._reporter = Reporter(config.save, self.iteration, config)

    def step(self) -> bool:
        """One step, its figures, and what follows if it was bad; False if the run went back."""
        batch = self.iteration + self.health.batches_left_out
        metrics = self.trainer.train_step(self.iteration, batch, self.health.judge)
        heartbeats.beat()
        if not metrics["number of skipped iterations"]:
            self.health.accept(metrics)
        elif self._bad_step(batch):
            return False
        self.iteration += 1
        interval = self.config.manual_gc_interval
        if interval and self.iteration % interval == 0:
            gc.collect()
        self._interval.add(metrics)
        if self._reporter is not None:
            self._reporter.record("train", self.iteration, metrics)
        if self.iteration % self.config.log_interval == 0 or self._is_last:
            self._log()
        return True

    def evaluate_and_save(self, stopped: bool, in_haste: bool) -> None:
        """Do either where it is due; what is told to stop is saved, not evaluated."""
        evaluates = self._is_due(self.config.eval_interval) and not in_haste
        saves = stopped or self.iteration % self.config.save_interval == 0
        if evaluates:
            self._evaluate()
        if saves:
            self.save()
        if evaluates or saves:
            if self.config.manual_gc:
                gc.collect()
            self._interval.restart_clock()

    def make_up_for_evaluation(self) -> None:
        """Evaluate now if the run was told to stop in a step where that was due."""
        missing = False
        if self._reporter is not None and self.config.save is not None:
            evaluated = {record["iteration"] for record in read_metrics(self.config.save, "valid")}
            due = self._is_due(self.config.eval_interval) and self.iteration > 0
            missing = due and not self._is_last and self.iteration not in evaluated
        if self.trainer.any_rank(missing):
            self._evaluate()
            self._interval.restart_clock()

    def save(self) -> None:
        """Save the state as it is now."""
        self.checkpoints.save(self.iteration, self.health.state())
        heartbeats.beat()

    def close(self) -> None:
        """Close the log."""
        if self._reporter is not None:
            self._reporter.close()

    @property
    def _is_last(self) -> bool:
        return self.iteration == self.config.train_iters

    def _is_due(self, interval: int) -> bool:
        return self._is_last or (interval > 0 and self.iteration % interval == 0)

    def _log(self) -> None:
        means, seconds, per_step = self._interval.take()
        figures = self.trainer.interval(seconds)
        self.metrics.update(means)
        if self._reporter is not None:
            self._reporter.record("interval", self.iteration, figures)
            self._reporter.log_train(self.iteration, means | figures, 1000 * per_step)

    def _evaluate(self) -> None:
        metrics = self.trainer.evaluate(self.iteration)
        heartbeats.beat()
        if metrics and self._reporter is not None:
            self._reporter.record("valid", self.iteration, metrics)
            self._reporter.log_valid(self.iteration, metrics)
        self.metrics.update({f"{name} validation": value for name, value in metrics.items()})

    def _resume(self) -> int:
        """Load the newest checkpoint of `save`, else of `load`; returns its iteration."""
        found = checkpoint.find(self.config.save, self.config.load)
        if found is not None:
            self._load(found[1], own=found[1].parent == self.config.save)
            if self.trainer.is_main_rank:
                print(f"resuming from step {found[0]} in {found[1].parent}", flush=True)
            return found[0]
        if self.config.load is not None:
            raise ConfigError(f"--load {self.config.load}: no checkpoint found there")
        return 0

    def _load(self, directory: Path, own: bool = True) -> None:
        self.trainer.load(directory, own)
        self.health.restore(checkpoint.read_notes(directory))

    def _bad_step(self, batch: int) -> bool:
        """The step just tried changed nothing: leave it so, end the run, or go back (True)."""
        self.checkpoints.finish()
        self.trainer.any_rank(False)  # a barrier: every rank reads the same marker
        found = checkpoint.find(self.config.save)
        finding = self.health.strike(self.iteration, found and found[0])
        if self.health.config.bad_step_policy == "skip":
            self._tell(f"{finding}; its batch {batch} is left out")
            return False
        if found is None:
            raise TrainingError(
                f"{finding}, and there is no checkpoint in --save to go back to; lower "
                "--save-interval, or give --bad-step-policy skip"
            )
        saved, directory = found
        self._load(directory)
        self.health.batches_left_out = batch + 1 - saved
        self.iteration = saved
        self._interval = Interval()
        if self._reporter is not None:
            self._reporter.go_back(saved)
        self._tell(f"{finding}; back to step {saved}, on from there with batch {batch + 1}")
        return True

    def _tell(self, text: str) -> None:
        if self._reporter is not None:
            self._reporter.event(self.iteration, text)
        elif self.trainer.is_main_rank:
            print(text, flush=True)


def _urgent_reason(config: LoopConfig, signals: list[int], seconds: float) -> str | None:
    if signals:
        return f"{signal.Signals(signals[0]).name} received"
    limit = config.exit_duration_in_mins
    if limit is not None and seconds >= 60 * limit:
        return f"--exit-duration-in-mins {limit:g} is over"
    return None


def _planned_reason(config: LoopConfig, iteration: int) -> str | None:
    if config.exit_interval is not None and iteration % config.exit_interval == 0:
        return f"--exit-interval {config.exit_interval} is reached"
    return None


def _stopping(reason: str | None, iteration: int, save: Path | None) -> str:
    """What a person, or a scheduler's log, is told about a run that ends early."""
    kept = f"saved in {save}, the same command continues" if save else "nothing is saved"
    return f"stopped at step {iteration}: {reason or 'another process asked for it'}; {kept}"


@contextmanager
def _garbage_collection(config: LoopConfig) -> Iterator[None]:
    """With --manual-gc only the loop collects; afterwards Python does again."""
    automatic = gc.isenabled()
    if config.manual_gc:
        gc.disable()
        gc.collect()
    try:
        yield
    finally:
        if automatic:
            gc.enable()


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
