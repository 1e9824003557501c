"""torch_dist checkpoints of the megatron backend: any layout in, any layout out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import CheckpointError
from .background_save import BackgroundSave, failures_in_words, results_in_a_file
from .checkpoint import PendingSave
from .checkpoint_check import (
    IDENTITY_KEY,
    SPEECH_TOKENIZER_KEY,
    check_files,
    check_identity,
    check_optimizer,
    read_common,
)
from .megatron_optimizer import BatchConfig
from .parallel import ParallelConfig

DATA_KEY = "data"
"""Where the run stood in its data, see `data.blend.BlendPosition`."""


class Checkpointed(Protocol):
    """What a checkpoint is made of; a `MegatronTrainer` is one."""

    chunks: list[Any]
    optimizer: Any
    scheduler: Any
    config: BatchConfig
    parallel: ParallelConfig
    identity: dict[str, Any]
    consumed_samples: int

    def data_position(self) -> dict[str, Any]: ...


def save(trainer: Checkpointed, directory: Path) -> PendingSave | None:
    """Weights, optimizer, schedule and random state, written by all ranks together.

    Returns None once everything is written; with `--async-save` a save under way.

    Raises:
        CheckpointError: the files could not be written (a full disk, most often).
    """
    from megatron.core import dist_checkpointing

    metadata = _metadata(trainer)
    state = _state(trainer, metadata, is_loading=False)
    state["random"] = _random_state()
    state["layout"] = _layout(trainer)
    state[DATA_KEY] = trainer.data_position()
    content = _without_groups(metadata)
    with failures_in_words(directory):
        if not trainer.config.async_save:
            dist_checkpointing.save(state, str(directory), content_metadata=content)
            return None
        with results_in_a_file():
            request = dist_checkpointing.save(
                state,
                str(directory),
                async_sharded_save=True,
                content_metadata=content,
                async_strategy="mcore",
            )
        return BackgroundSave(request, directory)


def load(trainer: Checkpointed, directory: Path) -> None:
    """Read what `save` wrote, resharding if the layout is another; files are checked first.

    Random state is restored where tensor and pipeline sizes agree; elsewhere it stays freshly
    seeded (it matters only with dropout).

    Raises:
        CheckpointError: the checkpoint is incomplete or damaged, of another model or vocabulary,
            or of the other kind of optimizer.
    """
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.core import CheckpointingException
    from torch.distributed.checkpoint.api import CheckpointException

    common = read_common(directory)
    stored = common.get(IDENTITY_KEY, {})
    check_identity(stored, trainer.identity, directory)
    if trainer.identity.get(SPEECH_TOKENIZER_KEY) is None:  # text alone: what it knew stays known
        known = stored.get(SPEECH_TOKENIZER_KEY)
        trainer.identity = {**trainer.identity, SPEECH_TOKENIZER_KEY: known}
    check_files(directory)
    trainer.consumed_samples = common.get(DATA_KEY, {}).get("consumed_samples", 0)
    metadata = _metadata(trainer)
    with_optimizer = not trainer.config.no_load_optim
    if with_optimizer:
        check_optimizer(common, trainer.parallel.use_distributed_optimizer, directory)
        _allocate_optimizer_state(trainer)
    state = _state(trainer, metadata, is_loading=True, with_optimizer=with_optimizer)
    same_layout = common.get("layout") == _layout(trainer)
    if same_layout and with_optimizer:
        state["random"] = _random_state()
    try:
        loaded: Any = dist_checkpointing.load(state, str(directory))
    except (CheckpointException, CheckpointingException, KeyError) as error:
        reason = str(error).strip().splitlines()[-1][:300]
        raise CheckpointError(
            f"{directory} does not hold what this model and optimizer need: {reason}"
        ) from None
    for key, chunk in _modules(trainer):
        chunk.load_state_dict(loaded[key])
    if not with_optimizer:
        trainer.optimizer.reload_model_params()
        return
    trainer.optimizer.load_state_dict(loaded["optimizer"])
    _separate_steps(trainer)
    trainer.scheduler.load_state_dict(loaded["opt_param_scheduler"])
    if same_layout:
        _restore_random_state(loaded["random"])


def _state(
    trainer: Checkpointed, metadata: dict, is_loading: bool, with_optimizer: bool = True
) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for key, chunk in _modules(trainer):
        state[key] = chunk.sharded_state_dict(metadata=metadata)
    if with_optimizer:
        state["optimizer"] = trainer.optimizer.sharded_state_dict(
            state, is_loading=is_loading, metadata=metadata
        )
        state["opt_param_scheduler"] = trainer.scheduler.state_dict()
    if not is_loading:
        state[IDENTITY_KEY] = trainer.identity
    return state


def _modules(trainer: Checkpointed) -> list[tuple[str, Any]]:
    """The bare modules: those wrapped in DistributedDataParallel would prefix every key."""
    chunks = [chunk.module for chunk in trainer.chunks]
    if len(chunks) == 1:
        return [("model", chunks[0])]
    return [(f"model{index}", chunk) for index, chunk in enumerate(chunks)]


def _metadata(trainer: Checkpointed) -> dict[str, Any]:
    from megatron.core import parallel_state

    metadata: dict[str, Any] = {
        "singleton_local_shards": False,
        "chained_optim_avoid_prefix": True,
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
    }
    if trainer.parallel.use_distributed_optimizer:
        metadata["distrib_optim_sharding_type"] = "fully_reshardable"
        metadata["distrib_optim_fully_reshardable_mem_efficient"] = False
    return metadata


def _without_groups(metadata: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key != "dp_cp_group"}


def _layout(trainer: Checkpointed) -> list[int]:
    return [
        trainer.parallel.tensor_model_parallel_size,
        trainer.parallel.pipeline_model_parallel_size,
    ]


def _random_state() -> Any:
    from megatron.core import parallel_state
    from megatron.core.dist_checkpointing.mapping import ShardedObject

    value = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(),
        "tracker": _random_tracker().get_states(),
    }
    return ShardedObject(
        "random",
        [value],
        (
            parallel_state.get_pipeline_model_parallel_world_size(),
            parallel_state.get_tensor_model_parallel_world_size(),
        ),
        (
            parallel_state.get_pipeline_model_parallel_rank(),
            parallel_state.get_tensor_model_parallel_rank(),
        ),
        replica_id=parallel_state.get_data_parallel_rank(with_context_parallel=True),
    )


def _random_tracker() -> Any:
    from megatron.core import tensor_parallel

    return tensor_parallel.get_cuda_rng_tracker()


def _restore_random_state(stored: list[dict[str, Any]]) -> None:
    value = stored[0]
    _random_tracker().set_states(value["tracker"])
    torch.cuda.set_rng_state(value["cuda"])
    torch.set_rng_state(value["torch"])


def _inner_optimizers(trainer: Checkpointed) -> list[Any]:
    return list(getattr(trainer.optimizer, "chained_optimizers", [trainer.optimizer]))


def _allocate_optimizer_state(trainer: Checkpointed) -> None:
    """Give a fresh torch AdamW its state: core's distributed optimizer cannot load without it.

    Done by a step with zero gradients; the weights it may decay are overwritten by the load.
    """
    for optimizer in _inner_optimizers(trainer):
        if not getattr(optimizer, "is_stub_optimizer", False) and not optimizer.optimizer.state:
            for group in optimizer.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            optimizer.optimizer.step()
            optimizer.optimizer.zero_grad()
            if hasattr(optimizer, "_set_main_param_and_optimizer_states"):
                _tolerate_missing_step(optimizer)


def _tolerate_missing_step(optimizer: Any) -> None:
    """Core restores the step by itself, yet looks for it among the tensors of each parameter."""
    original = optimizer._set_main_param_and_optimizer_states

    def with_step(model_parameter: Any, tensors: dict[str, Any]) -> None:
        original(model_parameter, {"step": None, **tensors})

    optimizer._set_main_param_and_optimizer_states = with_step


def _separate_steps(trainer: Checkpointed) -> None:
    """Give each parameter a step count of its own again.

    Core restores one tensor into all of them, and torch's AdamW adds to it in place: the count
    would grow by the number of parameters at every step.
    """
    for optimizer in _inner_optimizers(trainer):
        for state in optimizer.optimizer.state.values():
            if isinstance(state.get("step"), torch.Tensor):
                state["step"] = state["step"].clone()
