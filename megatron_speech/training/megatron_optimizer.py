"""Batch, optimizer and schedule of the megatron backend, and how core is told about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..errors import ConfigError
from .parallel import ParallelConfig, flag


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Batch, optimizer and precision, in Megatron's names."""

    micro_batch_size: int = 16
    """Windows per process in one forward and backward pass."""
    global_batch_size: int = 16
    """Windows in one optimizer step, over all processes."""
    lr: float = 1.5e-3
    """Peak learning rate."""
    min_lr: float = 1.5e-4
    """Learning rate at the end of the decay."""
    lr_decay_style: Literal["constant", "linear", "cosine", "WSD"] = "linear"
    """Shape of the decay."""
    lr_warmup_iters: int = 0
    """Steps of linear warm-up from 0."""
    lr_decay_iters: int | None = None
    """Steps after which the decay ends; all steps if not given."""
    lr_wsd_decay_iters: int | None = None
    """Steps of the final decay of WSD; a tenth of all steps if not given."""
    lr_wsd_decay_style: Literal["exponential", "linear", "cosine", "minus_sqrt"] = "linear"
    """Shape of the final decay of WSD."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.95
    """Decay of the second moment."""
    adam_eps: float = 1e-8
    """Added to the denominator of the update."""
    clip_grad: float = 1.0
    """Largest gradient norm; 0 disables clipping."""
    bf16: bool = False
    """Parameters and activations in bfloat16; gradients and optimizer stay fp32."""
    eval_iters: int = 8
    """Global batches in one evaluation."""
    no_load_optim: bool = False
    """Take only the weights from a checkpoint: a new optimizer and schedule."""
    async_save: bool = False
    """Write checkpoints in the background while training goes on."""
    seed: int = 1234
    """Seed of weights, dropout and the order of data."""

    def __post_init__(self) -> None:
        for name in ("micro_batch_size", "global_batch_size", "eval_iters"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{flag(name)} is {getattr(self, name)}; give at least 1")

    def micro_batches(self, data_parallel_size: int) -> int:
        """Micro-batches per process and step.

        Raises:
            ConfigError: the batch cannot be divided evenly.
        """
        share = self.micro_batch_size * data_parallel_size
        if self.global_batch_size % share:
            raise ConfigError(
                f"--global-batch-size {self.global_batch_size} is not a multiple of "
                f"--micro-batch-size {self.micro_batch_size} x {data_parallel_size} data-parallel "
                "processes; change one of them"
            )
        return self.global_batch_size // share


def wrap_data_parallel(
    chunks: Sequence[Any], config: BatchConfig, parallel: ParallelConfig
) -> list[Any]:
    """Core's DistributedDataParallel around each chunk, fp32 gradients in its buffers."""
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
        use_distributed_optimizer=parallel.use_distributed_optimizer,
    )
    wrapped: list[Any] = []
    for index, chunk in enumerate(chunks):
        wrapped.append(
            DistributedDataParallel(chunk.config, ddp_config, chunk, disable_bucketing=index > 0)
        )
    return wrapped


def build_optimizer(chunks: list[Any], config: BatchConfig, parallel: ParallelConfig) -> Any:
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

    return get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=config.lr,
            min_lr=config.min_lr,
            weight_decay=config.weight_decay,
            adam_beta1=config.adam_beta1,
            adam_beta2=config.adam_beta2,
            adam_eps=config.adam_eps,
            clip_grad=config.clip_grad,
            bf16=config.bf16,
            params_dtype=torch.bfloat16 if config.bf16 else torch.float32,
            use_distributed_optimizer=parallel.use_distributed_optimizer,
            overlap_param_gather=parallel.overlap_param_gather,
        ),
        chunks,
    )


def build_scheduler(optimizer: Any, config: BatchConfig, train_iters: int) -> Any:
    """Core's schedule; it counts samples, the settings count steps."""
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    size = config.global_batch_size
    decay_iters = config.lr_decay_iters or train_iters
    if config.lr_warmup_iters >= decay_iters:
        raise ConfigError(
            f"--lr-warmup-iters {config.lr_warmup_iters} leaves no steps of --lr-decay-iters "
            f"{decay_iters} (--train-iters if not given); lower the warm-up"
        )
    wsd_decay_iters = config.lr_wsd_decay_iters or max(decay_iters // 10, 1)
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=config.lr,
        min_lr=config.min_lr,
        lr_warmup_steps=config.lr_warmup_iters * size,
        lr_decay_steps=decay_iters * size,
        lr_decay_style=config.lr_decay_style,
        start_wd=config.weight_decay,
        end_wd=config.weight_decay,
        wd_incr_steps=train_iters * size,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
        wsd_decay_steps=wsd_decay_iters * size,
        lr_wsd_decay_style=config.lr_wsd_decay_style,
    )


def connect_gradients(
    core_config: Any, chunks: list[Any], optimizer: Any, parallel: ParallelConfig
) -> None:
    """Tell core's schedules how gradients are scaled, reduced and finished."""
    from megatron.core.distributed import finalize_model_grads

    core_config.grad_scale_func = optimizer.scale_loss
    core_config.finalize_model_grads_func = finalize_model_grads
    single = len(chunks) == 1
    if parallel.overlap_grad_reduce:
        no_sync = [chunk.no_sync for chunk in chunks]
        core_config.no_sync_func = no_sync[0] if single else no_sync
    if parallel.overlap_param_gather:
        sync = [chunk.start_param_sync for chunk in chunks]
        core_config.param_sync_func = sync[0] if single else sync
