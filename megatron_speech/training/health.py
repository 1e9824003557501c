"""Whether a step went well, and what is done about one that did not."""

import math
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from ..errors import ConfigError, TrainingError, require_within
from .task import Metrics

_FEWEST = 8  # losses before one can be told to be high


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """What counts as a bad step and what follows from it."""

    bad_step_policy: Literal["stop", "skip", "rollback"] = "stop"
    """After a bad step: end the run; leave the batch out; or go back to the last checkpoint and on
    from there with the batches after the bad one."""
    bad_step_limit: int = 10
    """Bad steps (or returns to one checkpoint) in a row after which the run ends all the same."""
    loss_spike_factor: float | None = None
    """A step is bad if its loss is above this many medians of the steps before."""
    loss_spike_window: int = 64
    """Steps that make the median."""
    grad_norm_skip_threshold: float = math.inf
    """A step is bad if its gradient norm is above this."""

    def __post_init__(self) -> None:
        require_within(self, 1, "bad_step_limit")
        if self.loss_spike_window < _FEWEST:
            raise ConfigError(
                f"--loss-spike-window is {self.loss_spike_window}; give at least {_FEWEST}"
            )
        if self.loss_spike_factor is not None and not self.loss_spike_factor > 1:
            raise ConfigError(f"--loss-spike-factor is {self.loss_spike_factor}; give more than 1")
        if not self.grad_norm_skip_threshold > 0:
            raise ConfigError(
                f"--grad-norm-skip-threshold is {self.grad_norm_skip_threshold}; give more than 0"
            )


class Health:
    """Judges steps by NaN, inf, spikes of the loss and the gradient norm.

    Its state (recent losses, batches left out) belongs to a checkpoint: with it a resumed run
    judges, and reads, as the uninterrupted one.
    """

    def __init__(self, config: HealthConfig):
        self.config = config
        self.batches_left_out = 0
        self._losses: deque[float] = deque(maxlen=config.loss_spike_window)
        self._strikes, self._saved = 0, None
        self._finding: str | None = None

    def judge(self, metrics: Metrics) -> str | None:
        """What is wrong with a step, None if nothing; implements `task.StepCheck`."""
        self._finding = self._find(metrics)
        return self._finding

    def _find(self, metrics: Metrics) -> str | None:
        for name, value in metrics.items():
            if ("loss" in name or name == "grad-norm") and not math.isfinite(value):
                return f"{name} is {value}"
        norm, loss = metrics["grad-norm"], _loss(metrics)
        if norm > self.config.grad_norm_skip_threshold:
            limit = self.config.grad_norm_skip_threshold
            return f"grad-norm is {norm:.4g}, above --grad-norm-skip-threshold {limit:g}"
        factor = self.config.loss_spike_factor
        if factor is None or loss is None or len(self._losses) < _FEWEST:
            return None
        usual = median(self._losses)
        if loss <= factor * usual:
            return None
        return f"the loss is {loss:.4g}, {loss / usual:.2f} times the {usual:.4g} of late"

    def accept(self, metrics: Metrics) -> None:
        """Take note of a sound step."""
        loss = _loss(metrics)
        if loss is not None:
            self._losses.append(loss)
        if self.config.bad_step_policy != "rollback":
            self._strikes = 0

    def strike(self, iteration: int, saved: int | None) -> str:
        """Count a bad step, the one after `iteration`; returns what was found.

        Steps that lead back to the same checkpoint, `saved`, count as in a row.

        Raises:
            TrainingError: the run has to end, by its policy or its limit.
        """
        if self.config.bad_step_policy == "rollback" and saved != self._saved:
            self._strikes, self._saved = 0, saved
        self._strikes += 1
        found = f"step {iteration + 1} is bad: {self._finding or 'found on another process'}"
        if self.config.bad_step_policy == "stop":
            raise TrainingError(
                f"{found}. The weights are those before it and nothing was saved; the same command "
                "repeats it from the last checkpoint. To go on, give --bad-step-policy skip or "
                "rollback, or change what caused it"
            )
        if self._strikes > self.config.bad_step_limit:
            raise TrainingError(
                f"{found}, the {self._strikes}th in a row (--bad-step-limit); go back to an "
                "earlier checkpoint, lower --lr, or look at the data"
            )
        return found

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"batches_left_out": self.batches_left_out, "losses": list(self._losses)}

    @staticmethod
    def batches_left_out_of(state: dict[str, Any]) -> int:
        """How far the batches of a checkpoint are ahead of its steps."""
        return state.get("batches_left_out", 0)

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint kept."""
        self.batches_left_out = self.batches_left_out_of(state)
        self._losses.clear()
        self._losses.extend(state.get("losses", ()))


def _loss(metrics: Metrics) -> float | None:
    """The loss that is trained: of language models `lm loss`, of other things `loss`."""
    return metrics.get("lm loss", metrics.get("loss"))
