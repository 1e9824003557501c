"""Settings of batch, optimizer and schedule, in Megatron's names."""

from dataclasses import dataclass
from typing import Literal

import tyro

from ..errors import ConfigError, flag, require_within
from .batch_schedule import BatchSchedule
from .optimizer_types import OptimizerTypes
from .parallel_config import ParallelConfig


@dataclass(frozen=True, kw_only=True)
class BatchConfig(OptimizerTypes):
    """Batch, optimizer and schedule, in Megatron's names."""

    micro_batch_size: int = 16
    """Windows per process in one forward and backward pass."""
    global_batch_size: int = 16
    """Windows in one optimizer step, over all processes."""
    step_batch_size_schedule: str | None = None
    """Other sizes on the way to it, by tokens read, as '0:64 1B:128 10B:256'."""
    lr: float = 1.5e-3
    """Peak learning rate."""
    min_lr: float | None = None
    """Learning rate at the end of the decay; a tenth of --lr if not given."""
    lr_decay_style: Literal["constant", "linear", "cosine", "inverse-square-root", "WSD"] = "linear"
    """Shape of the decay."""
    lr_warmup_iters: int = 0
    """Steps of linear warm-up."""
    lr_warmup_init: float = 0.0
    """Learning rate at the start of the warm-up."""
    lr_decay_iters: int | None = None
    """Steps after which the decay ends; all steps if not given."""
    lr_wsd_decay_iters: int | None = None
    """Steps of the final decay of WSD; a tenth of all steps if not given."""
    lr_wsd_decay_style: Literal["exponential", "linear", "cosine", "minus_sqrt"] = "linear"
    """Shape of the final decay of WSD."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only."""
    start_weight_decay: float | None = None
    """Weight decay at the start, where --weight-decay-incr-style is not constant."""
    end_weight_decay: float | None = None
    """Weight decay at the end."""
    weight_decay_incr_style: Literal["constant", "linear", "cosine"] = "constant"
    """Shape of the change from the one to the other over all steps."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.95
    """Decay of the second moment."""
    adam_eps: float = 1e-8
    """Added to the denominator of the update."""
    clip_grad: float = 1.0
    """Largest gradient norm; 0 disables clipping."""
    eval_iters: int = 8
    """Global batches in one evaluation."""
    no_load_optim: tyro.conf.FlagCreatePairsOff[bool] = False
    """Take only the weights from the checkpoint that --load names: a new optimizer and schedule."""
    async_save: bool = False
    """Write checkpoints in the background while training goes on."""
    dist_ckpt_optim_fully_reshardable: bool = True
    """Store the distributed optimizer's state for any layout. Every process gathers 12 bytes per
    parameter of its model part for that. Without it nothing is gathered, every process writes its
    own share, and a later run may change its data-parallel size alone."""
    distrib_optim_fully_reshardable_mem_efficient: bool = False
    """Gather that state on one process of each data-parallel group: less memory, fewer writers."""
    seed: int = 1234
    """Seed of weights, dropout and the order of data."""

    def __post_init__(self) -> None:
        require_within(self, 1, "micro_batch_size", "global_batch_size", "eval_iters")
        names = ("lr_warmup_iters", "lr_warmup_init", "min_lr", "weight_decay", "clip_grad")
        require_within(self, 0, *names)
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{flag(name)} is {getattr(self, name)}; give 0 <= beta < 1")
        if not (0 <= self.lowest_lr <= self.lr and self.lr_warmup_init <= self.lr):
            raise ConfigError(
                f"--lr {self.lr} is below --min-lr {self.lowest_lr} or --lr-warmup-init "
                f"{self.lr_warmup_init}; it is the highest rate"
            )
        if (
            self.distrib_optim_fully_reshardable_mem_efficient
            and not self.dist_ckpt_optim_fully_reshardable
        ):
            raise ConfigError(
                "--distrib-optim-fully-reshardable-mem-efficient is a way to gather what "
                "--no-dist-ckpt-optim-fully-reshardable leaves ungathered; drop one of them"
            )
        self._check_weight_decay()
        super().__post_init__()
        self.schedule(seq_length=1)

    @property
    def lowest_lr(self) -> float:
        """Learning rate at the end of the decay."""
        # 1.5e-4 of 1.5e-3, not the float beside it
        return float(f"{self.lr / 10:.12g}") if self.min_lr is None else self.min_lr

    @property
    def weight_decay_range(self) -> tuple[float, float]:
        """Weight decay of the first and of the last step."""
        if self.start_weight_decay is None or self.end_weight_decay is None:
            return self.weight_decay, self.weight_decay
        return self.start_weight_decay, self.end_weight_decay

    def _check_weight_decay(self) -> None:
        start, end = self.start_weight_decay, self.end_weight_decay
        if self.weight_decay_incr_style == "constant" and (start, end) != (None, None):
            raise ConfigError(
                "--start-weight-decay and --end-weight-decay belong to a "
                "--weight-decay-incr-style that is not constant; drop them or set it"
            )
        if self.weight_decay_incr_style != "constant" and (
            start is None or end is None or not 0 <= start <= end
        ):
            raise ConfigError(
                f"--weight-decay-incr-style {self.weight_decay_incr_style} needs "
                "--start-weight-decay and --end-weight-decay, the latter not below the former; "
                f"they are {start} and {end}"
            )

    def schedule(self, seq_length: int) -> BatchSchedule:
        """The global batches in order."""
        return BatchSchedule(
            global_batch_size=self.global_batch_size,
            schedule=self.step_batch_size_schedule,
            seq_length=seq_length,
        )

    def check_division(self, data_parallel_size: int, parallel: ParallelConfig) -> None:
        """Refuse global batches that processes and pipeline stages cannot share evenly.

        Raises:
            ConfigError: names the setting to change.
        """
        share = self.micro_batch_size * data_parallel_size
        stages = parallel.pipeline_model_parallel_size
        name = "--step-batch-size-schedule" if self.step_batch_size_schedule else ""
        for size in self.schedule(seq_length=1).sizes():
            shown = f"{name or '--global-batch-size'} {size}"
            if size % share:
                raise ConfigError(
                    f"{shown} is not a multiple of --micro-batch-size {self.micro_batch_size} x "
                    f"{data_parallel_size} data-parallel processes; change one of them"
                )
            if parallel.num_virtual_stages_per_pipeline_rank > 1 and (size // share) % stages:
                raise ConfigError(
                    f"{shown} gives {size // share} micro-batches per step and process, which "
                    f"cannot be interleaved over {stages} pipeline stages; make it a multiple of "
                    f"{share * stages}"
                )

    def check_schedule(self, train_iters: int) -> None:
        """Refuse a learning rate schedule that the steps leave no room for.

        Raises:
            ConfigError: names the setting to change.
        """
        decay_iters = self.lr_decay_iters or train_iters
        if self.lr_warmup_iters >= decay_iters:
            raise ConfigError(
                f"--lr-warmup-iters {self.lr_warmup_iters} leaves no steps of --lr-decay-iters "
                f"{decay_iters} (--train-iters if not given); lower the warm-up"
            )
        final = self.lr_wsd_decay_iters
        if self.lr_decay_style != "WSD" and final is not None:
            raise ConfigError("--lr-wsd-decay-iters belongs to --lr-decay-style WSD; drop it")
        if final is not None and not 1 <= final <= decay_iters - self.lr_warmup_iters:
            raise ConfigError(
                f"--lr-wsd-decay-iters {final} does not lie within the {decay_iters} steps of the "
                f"schedule after a warm-up of {self.lr_warmup_iters}; change it"
            )
