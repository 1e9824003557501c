"""Settings of the training loop, in Megatron's names."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..errors import ConfigError, require_within


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
    wandb_project: str | None = None
    """Send the figures to this Weights & Biases project."""
    wandb_exp_name: str | None = None
    """Name of the run there; the name of the --save folder if not given."""
    exit_duration_in_mins: float | None = None
    """Save and stop after this many minutes."""
    exit_interval: int | None = None
    """Save and stop at a step that this divides."""
    manual_gc: bool = False
    """Collect Python's garbage at chosen steps alone, on all processes at once: whenever one
    process pauses for it by itself, all others wait."""
    manual_gc_interval: int = 0
    """Steps between collections with --manual-gc; 0 collects around evaluations and saves only."""

    def __post_init__(self) -> None:
        require_within(self, 0, "manual_gc_interval")
        if self.manual_gc_interval and not self.manual_gc:
            raise ConfigError("--manual-gc-interval belongs to --manual-gc; drop it or set both")
        for name in ("train_iters", "save_interval", "log_interval"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give >= 1")
        require_within(self, 1, "exit_interval", "keep_last")
        if self.wandb_exp_name is not None and self.wandb_project is None:
            raise ConfigError("--wandb-exp-name belongs to --wandb-project; drop it or set both")

    def check(self) -> None:
        """Refuse what is asked for and not installed.

        Raises:
            ConfigError: W&B.
        """
        if self.wandb_project is not None and find_spec("wandb") is None:
            raise ConfigError(
                f"--wandb-project {self.wandb_project} needs the package wandb, which is not "
                "installed: pip install wandb, or drop the flag"
            )
