"""Optimizer and schedule of the megatron backend, and how core is told about them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from ..batch_config import BatchConfig
from ..batch_schedule import BatchSchedule
from ..parallel_config import ParallelConfig

_TYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.uint8,  # Transformer Engine's name for it
}


def wrap_data_parallel(
    chunks: Sequence[Any], config: BatchConfig, parallel: ParallelConfig
) -> list[Any]:
    """Core's DistributedDataParallel around each chunk, with the gradients in its buffers."""
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    ddp_config = DistributedDataParallelConfig(
        fp8_param_gather=chunks[0].config.fp8_param,
        grad_reduce_in_fp32=not parallel.grad_reduce_in_bf16,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
        use_distributed_optimizer=parallel.use_distributed_optimizer,
        bucket_size=parallel.ddp_bucket_size,
    )
    wrapped: list[Any] = []
    for index, chunk in enumerate(chunks):
        wrapped.append(
            DistributedDataParallel(chunk.config, ddp_config, chunk, disable_bucketing=index > 0)
        )
    return wrapped


def build_optimizer(chunks: list[Any], config: BatchConfig, parallel: ParallelConfig) -> Any:
    """Core's AdamW; with bf16 parameters it keeps fp32 copies.

    On a GPU core takes Transformer Engine's or apex's where they are; on a CPU torch's is told to
    update a tensor in one pass instead of one for each operation.
    """
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

    core_config = chunks[0].config
    types: dict[str, Any] = {n: _TYPES[value] for n, value in config.optimizer_types.items()}
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=config.lr,
            min_lr=config.lowest_lr,
            weight_decay=config.weight_decay,
            adam_beta1=config.adam_beta1,
            adam_beta2=config.adam_beta2,
            adam_eps=config.adam_eps,
            clip_grad=config.clip_grad,
            bf16=core_config.bf16,
            fp8_recipe=core_config.fp8_recipe if core_config.fp8 else None,
            params_dtype=core_config.params_dtype,
            use_distributed_optimizer=parallel.use_distributed_optimizer,
            overlap_param_gather=parallel.overlap_param_gather,
            use_precision_aware_optimizer=config.use_precision_aware_optimizer,
            store_param_remainders=config.main_params_dtype == "fp32",
            **types,
        ),
        chunks,
    )
    if not torch.cuda.is_available():
        for group in optimizer.param_groups:
            group["fused"] = True
    return optimizer


def build_scheduler(
    optimizer: Any, config: BatchConfig, schedule: BatchSchedule, train_iters: int
) -> Any:
    """Core's schedule; it counts windows, the settings count steps."""
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    config.check_schedule(train_iters)
    decay_iters = config.lr_decay_iters or train_iters
    longest = decay_iters - config.lr_warmup_iters
    wsd_decay_iters = config.lr_wsd_decay_iters or min(max(decay_iters // 10, 1), longest)
    first_decay, last_decay = config.weight_decay_range
    return OptimizerParamScheduler(
        optimizer,
        init_lr=config.lr_warmup_init,
        max_lr=config.lr,
        min_lr=config.lowest_lr,
        lr_warmup_steps=schedule.first(config.lr_warmup_iters),
        lr_decay_steps=schedule.first(decay_iters),
        lr_decay_style=config.lr_decay_style,
        start_wd=first_decay,
        end_wd=last_decay,
        wd_incr_steps=schedule.first(train_iters),
        wd_incr_style=config.weight_decay_incr_style,
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
        wsd_decay_steps=schedule.first(decay_iters) - schedule.first(decay_iters - wsd_decay_iters),
        lr_wsd_decay_style=config.lr_wsd_decay_style,
    )


def connect_gradients(
    core_config: Any, chunks: list[Any], optimizer: Any, parallel: ParallelConfig
) -> None:
    """Tell core's schedules how gradients are scaled, reduced and finished."""
    from megatron.core.distributed import finalize_model_grads

    core_config.grad_scale_func = optimizer.scale_loss
    core_config.finalize_model_grads_func = finalize_model_grads
    shared = [p for chunk in chunks for p in chunk.parameters() if _is_copied_row(p)]
    if shared:
        core_config.finalize_model_grads_func = partial(_finalize_with_rows, shared)
    single = len(chunks) == 1
    if parallel.overlap_grad_reduce:
        no_sync = [chunk.no_sync for chunk in chunks]
        core_config.no_sync_func = no_sync[0] if single else no_sync


def _is_copied_row(parameter: Any) -> bool:
    """Trained rows of a tied table that lives on two stages; the table itself core looks after."""
    return hasattr(parameter, "first_row") and getattr(parameter, "shared_embedding", False)


def _finalize_with_rows(shared: list[Any], *arguments: Any, **options: Any) -> None:
    """Core's reduction, and the sum over the two stages that each have a part of a gradient."""
    from megatron.core import parallel_state
    from megatron.core.distributed import finalize_model_grads

    finalize_model_grads(*arguments, **options)
    for parameter in shared:
        dist.all_reduce(parameter.main_grad, group=parallel_state.get_embedding_group())


@contextmanager
def whole_parameters(chunks: list[Any], parallel: ParallelConfig) -> Iterator[None]:
    """Every process holds all parameters as they are now.

    With --overlap-param-gather the step of the distributed optimizer leaves each process its own
    part alone; the rest would come with the next forward pass.
    """
    if parallel.overlap_param_gather:
        for chunk in chunks:
            chunk.disable_forward_pre_hook()  # gathers
    try:
        yield
    finally:
        if parallel.overlap_param_gather:
            for chunk in chunks:
                chunk.enable_forward_pre_hook()
