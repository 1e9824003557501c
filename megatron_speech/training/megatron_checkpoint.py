"""torch_dist checkpoints of the megatron backend: any layout in, any layout out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import CheckpointError
from .checkpoint import reading, unwritable
from .megatron_optimizer import BatchConfig
from .parallel import ParallelConfig

IDENTITY_KEY = "identity"
SPEECH_TOKENIZER_KEY = "speech_tokenizer"
"""Part of the identity that may be None: a model that was trained on text alone."""


class Checkpointed(Protocol):
    """What a checkpoint is made of; a `MegatronTrainer` is one."""

    chunks: list[Any]
    optimizer: Any
    scheduler: Any
    config: BatchConfig
    parallel: ParallelConfig
    identity: dict[str, Any]


def save(trainer: Checkpointed, directory: Path) -> None:
    """Weights, optimizer, schedule and random state, written by all ranks together.

    Raises:
        CheckpointError: the files could not be written (a full disk, most often).
    """
    from megatron.core import dist_checkpointing
    from torch.distributed.checkpoint.api import CheckpointException

    metadata = _metadata(trainer)
    state = _state(trainer, metadata, is_loading=False)
    state["random"] = _random_state()
    state["layout"] = _layout(trainer)
    content = _without_groups(metadata)
    try:
        dist_checkpointing.save(state, str(directory), content_metadata=content)
    except (CheckpointException, RuntimeError) as error:
        raise unwritable(directory, error) from None


def load(trainer: Checkpointed, directory: Path) -> None:
    """Read what `save` wrote, resharding if the layout is another.

    Random state is restored where tensor and pipeline sizes agree; elsewhere it stays freshly
    seeded (it matters only with dropout).

    Raises:
        CheckpointError: the checkpoint is incomplete, of another model or vocabulary, or of the
            other kind of optimizer.
    """

    if trainer.config.no_load_optim:
        load_weights(trainer, directory)
        return
    common = _adopt_common(trainer, directory)
    _check_optimizer(common, trainer, directory)
    _allocate_optimizer_state(trainer)
    state = _state(trainer, _metadata(trainer), is_loading=True)
    same_layout = common.get("layout") == _layout(trainer)
    if same_layout:
        state["random"] = _random_state()
    loaded = _load(state, directory)
    for key, chunk in _modules(trainer):
        chunk.load_state_dict(loaded[key])
    trainer.optimizer.load_state_dict(loaded["optimizer"])
    _separate_steps(trainer)
    trainer.scheduler.load_state_dict(loaded["opt_param_scheduler"])
    if same_layout:
        _restore_random_state(loaded["random"])


def load_weights(trainer: Checkpointed, directory: Path) -> None:
    """Read the weights alone, of any layout and type; optimizer and schedule stay new.

    Raises:
        CheckpointError: the checkpoint is incomplete, damaged, or of another model or vocabulary.
    """
    _adopt_common(trainer, directory)
    state = _state(trainer, _metadata(trainer), is_loading=True, with_optimizer=False)
    loaded = _load(state, directory)
    for key, chunk in _modules(trainer):
        chunk.load_state_dict(loaded[key])
    trainer.optimizer.reload_model_params()


def _adopt_common(trainer: Checkpointed, directory: Path) -> dict[str, Any]:
    """What the checkpoint holds besides tensors, if it is of the trainer's model."""
    common = read_common(directory)
    stored = common.get(IDENTITY_KEY, {})
    _check_identity(stored, trainer.identity, directory)
    if trainer.identity.get(SPEECH_TOKENIZER_KEY) is None:  # text alone: what it knew stays known
        known = stored.get(SPEECH_TOKENIZER_KEY)
        trainer.identity = {**trainer.identity, SPEECH_TOKENIZER_KEY: known}
    return common


def _load(state: dict[str, Any], directory: Path) -> Any:
    """Core's load, which also compares the SHA-256 of the files where they were kept."""
    from megatron.core import dist_checkpointing

    kept = (directory / "integrity.json").exists()
    with reading(directory):
        return dist_checkpointing.load(state, str(directory), verify_integrity=kept)


def read_common(directory: Path) -> dict[str, Any]:
    """What a checkpoint holds besides tensors.

    Raises:
        CheckpointError: the folder holds no whole checkpoint.
    """
    from megatron.core import dist_checkpointing

    if not (directory / "metadata.json").exists() or not (directory / ".metadata").exists():
        raise CheckpointError(
            f"{directory} is no whole torch_dist checkpoint: metadata.json or .metadata is missing"
        )
    with reading(directory):
        return dist_checkpointing.load_common_state_dict(str(directory))


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


def _check_optimizer(common: dict, trainer: Checkpointed, directory: Path) -> None:
    if "optimizer" not in common:
        raise CheckpointError(
            f"{directory} holds weights alone, as an imported base model does; give its folder as "
            "--pretrained-checkpoint, and the run a --save of its own"
        )
    stored = "distrib_optim_sharding_type" in common.get("content_metadata", {})
    wanted = trainer.parallel.use_distributed_optimizer
    if stored != wanted:
        raise CheckpointError(
            f"{directory} was saved {'with' if stored else 'without'} "
            f"--use-distributed-optimizer; continue it that way, or take its weights alone with "
            "--no-load-optim"
        )


def _check_identity(stored: dict, wanted: dict, directory: Path) -> None:
    differing = [
        f"{name} is {stored.get(name)} there and {value} here"
        for name, value in wanted.items()
        if stored.get(name) != value
        and not (name == SPEECH_TOKENIZER_KEY and None in (stored.get(name), value))
    ]
    if differing:
        raise CheckpointError(
            f"{directory} is of another model, vocabulary or speech tokenizer: "
            f"{'; '.join(differing)}; use the settings and data it was trained with, or another "
            "--save folder"
        )
