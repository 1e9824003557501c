"""Most memory a process of a layout needs at once, by what it is for."""

from dataclasses import dataclass, field
from functools import lru_cache

from ..model.config import ModelConfig
from ..model.lora_config import LoRAConfig
from ..model.precision import Implementation, PrecisionConfig
from ..training.optimizer_types import OptimizerTypes
from ..training.parallel_config import ParallelConfig
from .activations import Activations
from .shards import StageShards, stage_shards

_USERBUFFERS = 10
"""Buffers of a layer's whole input that Transformer Engine overlaps communication through."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one process at the moment it needs most. `peak` is their sum."""

    weights: int
    fp8_weights: int
    """Copies of the layers' matrices in FP8, one for each direction."""
    gradients: int
    optimizer: int
    activations: int
    """What the layers keep of all micro-batches under way."""
    head: int
    """Final norm, logits and loss, where they are part of that moment."""
    working: int
    """What lives for a moment: gradients under way, layers computed again, gathered inputs."""

    @property
    def static(self) -> int:
        """What stays from step to step."""
        return self.weights + self.fp8_weights + self.gradients + self.optimizer

    @property
    def peak(self) -> int:
        return self.static + self.activations + self.head + self.working


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model and its batches, whatever the layout."""

    model: ModelConfig
    padded_vocab_size: int
    seq_length: int
    global_batch_size: int
    precision: PrecisionConfig
    implementation: Implementation
    optimizer: OptimizerTypes = field(default_factory=OptimizerTypes)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    trained_rows: int = 0
    """Rows of the tables that are trained beside adapters."""

    @property
    def bytes_of_parameter(self) -> int:
        """What the optimizer keeps of each."""
        precision = self.precision
        whole = precision.fp8_format is not None and precision.fp8_recipe != "delayed"
        return self.optimizer.optimizer_bytes(precision.bf16, whole_weights=whole)


def in_flight(parallel: ParallelConfig, stage: int, micro_batches: int) -> int:
    """Micro-batches (of one model chunk) whose activations a stage holds at once.

    Core's schedules: one forward, one backward pass in turn after a warm-up; with virtual stages
    the warm-up goes through all chunks but the last and twice over the stages behind.
    """
    stages, virtual = (
        parallel.pipeline_model_parallel_size,
        parallel.num_virtual_stages_per_pipeline_rank,
    )
    if virtual == 1:
        return min(stages - stage, micro_batches)
    warm_up = 2 * (stages - stage - 1) + (virtual - 1) * stages
    return min(warm_up + 1, micro_batches * virtual)


def stage_memory(
    workload: Workload,
    parallel: ParallelConfig,
    micro_batch_size: int,
    data_parallel_size: int,
    stage: int,
) -> Memory:
    """Memory of the fullest process of a pipeline stage."""
    replicas = data_parallel_size * parallel.context_parallel_size
    shards = _shards(
        workload.model,
        _division(parallel),
        workload.padded_vocab_size,
        stage,
        replicas,
        workload.lora,
        workload.trained_rows,
    )
    kept = Activations(
        model=workload.model,
        parallel=parallel,
        padded_vocab_size=workload.padded_vocab_size,
        micro_batch_size=micro_batch_size,
        seq_length=workload.seq_length,
        bf16=workload.precision.bf16,
        implementation=workload.implementation,
        lora=workload.lora,
        trained_rows=workload.trained_rows,
    )
    count = in_flight(
        parallel, stage, workload.global_batch_size // (micro_batch_size * data_parallel_size)
    )
    stages = parallel.pipeline_model_parallel_size
    layers = workload.model.num_layers
    layers //= stages * parallel.num_virtual_stages_per_pipeline_rank
    activations = count * (kept.layers(layers) + (kept.embedding if stage == 0 else 0))
    gathered = kept.residual * parallel.tensor_model_parallel_size
    gathered *= parallel.sequence_parallel  # core's one buffer for gathered inputs
    buffers = _USERBUFFERS * gathered * parallel.tp_comm_overlap
    moments = [(activations, 0, kept.recomputed + kept.gradients + gathered)]
    if stage == stages - 1:
        moments.append((activations, kept.head_peak, gathered))
    recorded = workload.precision.cuda_graph_impl != "none"  # replayed where it was recorded
    kept_on = activations if recorded else 0
    moments.append((kept_on, 0, _between_passes(shards, workload, parallel)))
    activations, head, working = max(moments, key=sum)
    bf16 = workload.precision.bf16
    in_fp8_alone = 2 * shards.linear_elements * workload.precision.fp8_param_gather
    return Memory(
        weights=shards.weight_bytes(bf16) - in_fp8_alone,
        fp8_weights=2 * shards.linear_elements if workload.precision.fp8_format else 0,
        gradients=shards.gradient_bytes(bf16),
        optimizer=shards.optimizer_bytes(workload.bytes_of_parameter),
        activations=activations,
        head=head,
        working=working + buffers,
    )


_shards = lru_cache(maxsize=4096)(stage_shards)


def _division(parallel: ParallelConfig) -> ParallelConfig:
    """The same without what changes activations alone, so that shards are counted once."""
    kept = (
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
        "num_virtual_stages_per_pipeline_rank",
        "context_parallel_size",
        "use_distributed_optimizer",
        "overlap_grad_reduce",
        "overlap_param_gather",
        "ddp_bucket_size",
        "grad_reduce_in_bf16",
    )
    return ParallelConfig(**{name: getattr(parallel, name) for name in kept})


def _between_passes(shards: StageShards, workload: Workload, parallel: ParallelConfig) -> int:
    """When activations are gone: an embedding's gradient, or what the optimizer works with.

    Gradients in bf16 are copied to fp32 for it; Transformer Engine's Adam updates in place, for
    torch's on a GPU as much again is counted as it updates.
    """
    embedding = (2 if workload.precision.bf16 else 4) * shards.largest_elements
    as_they_are = workload.optimizer.use_precision_aware_optimizer
    copies = (parallel.grad_reduce_in_bf16 and workload.precision.bf16 and not as_they_are) + (
        not workload.implementation.transformer_engine
    )
    return max(embedding, copies * 4 * shards.optimizer_elements())


def fullest_memory(
    workload: Workload, parallel: ParallelConfig, micro_batch_size: int, data_parallel_size: int
) -> Memory:
    """Memory of the process that needs most; of the stages only the outer two differ in kind."""
    stages = parallel.pipeline_model_parallel_size
    return max(
        (
            stage_memory(workload, parallel, micro_batch_size, data_parallel_size, stage)
            for stage in sorted({0, min(1, stages - 1), stages - 1})
        ),
        key=lambda memory: memory.peak,
    )
