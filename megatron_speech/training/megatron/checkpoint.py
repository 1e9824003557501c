"""torch_dist checkpoints of the megatron backend: by default any layout in, any layout out."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch

from ...errors import CheckpointError
from ..task import PendingSave
from .background_save import BackgroundSave, ResultFile, failures_in_words, results_in
from .checkpoint_check import (
    BASE_KEY,
    BUCKET_SETTINGS_KEY,
    CONTENT_KEY,
    IDENTITY_KEY,
    LORA_KEY,
    SHARDING_KEY,
    SPEECH_TOKENIZER_KEY,
    check_files,
    check_identity,
    check_optimizer,
    read_common,
    read_tensors,
    stored_keys,
)
from .optimizer import BatchConfig
from .optimizer_state import (
    allocate_state,
    keep_step_zero,
    padding_counted,
    separate_steps,
    steps_left_alone,
)
from .parallel import ParallelConfig, random_state, set_random_state

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
    from megatron.core.dist_checkpointing.strategies.fully_parallel import (
        FullyParallelSaveStrategyWrapper,
    )
    from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

    allocate_state(trainer.optimizer)
    metadata = _metadata(trainer)
    state = _state(trainer, metadata, is_loading=False)
    state["random"] = _random_state()
    state["layout"] = _layout(trainer)
    state[BUCKET_SETTINGS_KEY] = _bucket_settings(trainer)
    state[DATA_KEY] = trainer.data_position()
    content = {name: value for name, value in metadata.items() if name != "dp_cp_group"}
    with failures_in_words(directory):
        # processes that hold the same tensors write a part of them each
        strategy: Any = FullyParallelSaveStrategyWrapper(
            TorchDistSaveShardedStrategy(), metadata["dp_cp_group"]
        )
        if not trainer.config.async_save:
            dist_checkpointing.save(state, str(directory), strategy, content_metadata=content)
            return None
        with results_in(ResultFile()):
            request = dist_checkpointing.save(
                state,
                str(directory),
                strategy,
                async_sharded_save=True,
                content_metadata=content,
                async_strategy="mcore",
            )
        return BackgroundSave(request, directory)


def load(trainer: Checkpointed, directory: Path, weights_alone: bool = False) -> None:
    """Read what `save` wrote, resharding if the layout is another; files are checked first.

    What was saved with `--no-dist-ckpt-optim-fully-reshardable` fits other numbers of
    data-parallel processes alone.

    Random state is restored where tensor and pipeline sizes agree; elsewhere it stays freshly
    seeded (it matters only with dropout).

    Raises:
        CheckpointError: the checkpoint is incomplete or damaged, of another model or vocabulary,
            of the other kind of optimizer, or of a layout that it cannot leave.
    """
    common = read_common(directory)
    if not weights_alone:  # before all files are read
        sharded = trainer.parallel.use_distributed_optimizer
        check_optimizer(common, sharded, _bucket_settings(trainer), directory)
    _adopt(trainer, common, directory)
    trainer.consumed_samples = common.get(DATA_KEY, {}).get("consumed_samples", 0)
    if weights_alone:
        _load_weights(trainer, directory)
        return
    same_layout = common.get("layout") == _layout(trainer)
    allocate_state(trainer.optimizer)
    metadata = {**_metadata(trainer), **common[CONTENT_KEY]}  # read as it was written
    state = _state(trainer, metadata, is_loading=True)
    if same_layout:
        state["random"] = _random_state()
    loaded = _read(state, directory)
    _set_weights(trainer, loaded)
    # no_grad: of ungathered state, core copies into fp32 weights that want gradients
    with torch.no_grad(), steps_left_alone(trainer.optimizer):
        trainer.optimizer.load_state_dict(loaded["optimizer"])
    separate_steps(trainer.optimizer)
    trainer.scheduler.num_steps = 0  # core adds what it reads to the steps already taken
    trainer.scheduler.load_state_dict(loaded["opt_param_scheduler"])
    if same_layout:
        set_random_state(loaded["random"][0])


def start_from(trainer: Checkpointed, directory: Path) -> None:
    """Read the weights alone, as the first of a new run; they may be of another type.

    Of a model that is partly frozen the frozen part is read: the base of its adapters.

    Raises:
        CheckpointError: the checkpoint is incomplete or damaged, of another model or vocabulary, or
            holds adapters alone.
    """
    common = read_common(directory)
    if common.get(IDENTITY_KEY, {}).get(LORA_KEY) is not None:
        raise CheckpointError(
            f"{directory} holds the adapters of a LoRA run and no model; export that run, merged "
            "(convert_checkpoint megatron-to-hf), and import the folder it writes (hf-to-megatron)"
        )
    _adopt(trainer, common, directory, of_base=True)
    _load_weights(trainer, directory, of_base=True)


def _load_weights(trainer: Checkpointed, directory: Path, of_base: bool = False) -> None:
    state: dict[str, Any] = {}
    for key, chunk in _modules(trainer):
        state[key] = _weights(chunk, _metadata(trainer), of_base)
    _set_weights(trainer, _read(state, directory))
    trainer.optimizer.reload_model_params()


def _weights(chunk: Any, metadata: dict, of_base: bool = False) -> dict[str, Any]:
    """A chunk's weights; of one that is partly frozen what is trained, or the rest: its base."""
    found = chunk.sharded_state_dict(metadata=metadata)
    frozen = {name for name, p in chunk.named_parameters() if not p.requires_grad}
    trained = {name for name, p in chunk.named_parameters() if p.requires_grad}
    left_out = frozen if not of_base else trained if frozen else set()
    return {name: entry for name, entry in found.items() if name not in left_out}


def _set_weights(trainer: Checkpointed, loaded: dict[str, Any]) -> None:
    for key, chunk in _modules(trainer):
        is_whole = all(parameter.requires_grad for parameter in chunk.parameters())
        chunk.load_state_dict(loaded[key], strict=is_whole)


def _read(state: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Read what a state asks for; extra state that was not saved stays as it is in the modules.

    Layers keep extra state (FP8 statistics) beside their weights, and which of them do differs
    between Transformer Engine's and local ones: either reads what the other saved.
    """
    from megatron.core.dist_checkpointing.mapping import ShardedObject

    stored, kept = stored_keys(directory), {}
    for part, entries in state.items():
        for name, entry in list(entries.items()) if part.startswith("model") else ():
            is_extra = isinstance(entry, ShardedObject) and name.endswith("_extra_state")
            if is_extra and entry.unique_key not in stored:
                kept[part, name] = entries.pop(name).data
    loaded = read_tensors(state, directory)
    for (part, name), value in kept.items():
        loaded[part][name] = value
    return loaded


def _adopt(
    trainer: Checkpointed, common: dict[str, Any], directory: Path, of_base: bool = False
) -> None:
    """See that a checkpoint is whole and the trainer's; take over what that knew."""
    stored = common.get(IDENTITY_KEY, {})
    wanted = dict(trainer.identity)
    if of_base:
        wanted.pop(LORA_KEY, None)
        wanted.pop(BASE_KEY, None)
    check_identity(stored, wanted, directory)
    if trainer.identity.get(SPEECH_TOKENIZER_KEY) is None:  # text alone: what it knew stays known
        known = stored.get(SPEECH_TOKENIZER_KEY)
        trainer.identity = {**trainer.identity, SPEECH_TOKENIZER_KEY: known}
    check_files(directory)


def _state(trainer: Checkpointed, metadata: dict, is_loading: bool) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for key, chunk in _modules(trainer):
        state[key] = _weights(chunk, metadata)
    gathers = metadata.get(SHARDING_KEY) == "fully_reshardable"
    with padding_counted(trainer.optimizer) if gathers else nullcontext():
        state["optimizer"] = trainer.optimizer.sharded_state_dict(
            state, is_loading=is_loading, metadata=metadata
        )
    if not is_loading and SHARDING_KEY not in metadata:
        keep_step_zero(trainer.optimizer, state["optimizer"])
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
    config = trainer.config
    if trainer.parallel.use_distributed_optimizer and config.dist_ckpt_optim_fully_reshardable:
        metadata[SHARDING_KEY] = "fully_reshardable"
        metadata["distrib_optim_fully_reshardable_mem_efficient"] = (
            config.distrib_optim_fully_reshardable_mem_efficient
        )
    elif trainer.parallel.use_distributed_optimizer:
        metadata[SHARDING_KEY] = "dp_reshardable"
    return metadata


def _layout(trainer: Checkpointed) -> list[int]:
    return [
        trainer.parallel.tensor_model_parallel_size,
        trainer.parallel.pipeline_model_parallel_size,
    ]


def _bucket_settings(trainer: Checkpointed) -> dict[str, Any]:
    """What decides which parameters share a bucket of the distributed optimizer."""
    parallel = trainer.parallel
    return {
        "tensor-model-parallel-size": parallel.tensor_model_parallel_size,
        "pipeline-model-parallel-size": parallel.pipeline_model_parallel_size,
        "num-virtual-stages-per-pipeline-rank": parallel.num_virtual_stages_per_pipeline_rank,
        "overlap-grad-reduce": parallel.overlap_grad_reduce,
        "ddp-bucket-size": trainer.chunks[0].ddp_config.bucket_size,
    }


def _random_state() -> Any:
    from megatron.core import parallel_state
    from megatron.core.dist_checkpointing.mapping import ShardedObject

    return ShardedObject(
        "random",
        [random_state()],
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
