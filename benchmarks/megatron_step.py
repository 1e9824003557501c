"""The peer of our training step: `megatron.training.train_step` on the same model and windows."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from megatron_speech.recipes.lm_recipes import LMConfig
from megatron_speech.training.megatron.backend import MegatronTrainer
from megatron_speech.training.megatron.batch import Batch, read_batch


@contextmanager
def megatron_train_step(
    trainer: MegatronTrainer, config: LMConfig
) -> Iterator[Callable[[int], dict[str, float]]]:
    """A function that does step n on the trainer's model, optimizer and schedule.

    For plain data parallelism, without pipeline stages. Megatron's arguments are those of its
    parser, with the batch from `config`; its checks for faults of the hardware are on.
    """
    from megatron.core.num_microbatches_calculator import (
        destroy_num_microbatches_calculator,
        init_num_microbatches_calculator,
    )
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.rerun_state_machine import (
        RerunMode,
        destroy_rerun_state_machine,
        initialize_rerun_state_machine,
    )
    from megatron.training import arguments, global_vars
    from megatron.training.training import train_step

    batch, replicas = config.batch, trainer.layout.data_parallel_size
    with mock.patch.object(sys, "argv", ["megatron"]):
        args = arguments.parse_args()
    args.rank, args.world_size = trainer.layout.rank, trainer.layout.world_size
    args.micro_batch_size, args.global_batch_size = batch.micro_batch_size, batch.global_batch_size
    args.seq_length, args.decoder_seq_length = config.data.seq_length, None
    args.data_parallel_size, args.gtp_weight_remat_size = replicas, 1
    global_vars.set_args(args)
    global_vars._set_timers(args)
    init_num_microbatches_calculator(
        rank=args.rank,
        global_batch_size=batch.global_batch_size,
        micro_batch_size=batch.micro_batch_size,
        data_parallel_size=replicas,
        decrease_batch_size_if_needed=False,
    )
    initialize_rerun_state_machine(mode=RerunMode.VALIDATE_RESULTS)
    schedule = get_forward_backward_func()

    def step(index: int) -> dict[str, float]:
        for chunk in trainer.chunks:
            chunk.train()
        losses, *_ = train_step(
            _forward_step,
            _batches(trainer, config, index),
            trainer.chunks,
            trainer.optimizer,
            trainer.scheduler,
            trainer.chunks[0].module.config,
            schedule,
            iteration=index,
        )
        return {name: value.item() for name, value in losses.items()}

    try:
        yield step
    finally:
        destroy_rerun_state_machine()
        destroy_num_microbatches_calculator()
        global_vars.destroy_global_vars()


def _batches(trainer: MegatronTrainer, config: LMConfig, index: int) -> Any:
    from megatron.core.rerun_state_machine import RerunDataIterator

    size, total = config.batch.micro_batch_size, config.batch.global_batch_size
    layout = trainer.layout

    def read() -> Iterator[Batch]:
        for first in range(index * total, (index + 1) * total, size * layout.data_parallel_size):
            low = first + layout.data_parallel_rank * size
            yield read_batch(trainer.data.train, range(low, low + size), layout.device, False)

    return RerunDataIterator(read())


def _forward_step(batches: Iterator[Batch], model: torch.nn.Module) -> tuple[Tensor, Any]:
    batch = next(batches)
    losses = model(batch.tokens, batch.position_ids, batch.attention_mask, labels=batch.labels)
    return losses, partial(_loss, batch)


def _loss(batch: Batch, losses: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    mask = batch.loss_mask.flatten()
    total, tokens = (losses.float().flatten() * mask).sum(), mask.sum()
    report = torch.stack([total.detach(), tokens])
    return total, tokens.int(), {"lm loss": report}
