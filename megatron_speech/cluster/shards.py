"""What one process of a layout holds of a model: parameters, gradient buffers, optimizer state.

Counted, not built. The counts follow Megatron-Core: which parameter a process has, in which order
they lie in its gradient buffers, how these are padded and cut into buckets, and which part of each
bucket the distributed optimizer gives to a data-parallel process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lcm

import numpy as np

from ..model.config import ModelConfig
from ..model.families import shape_in_megatron
from ..model.lora_config import LoRAConfig
from ..training.parallel_config import ParallelConfig

_ALIGNMENT = 64  # elements: where a parameter may begin in a buffer of the distributed optimizer
_BUCKET_UNIT = 128  # elements: what a bucket's length is a multiple of there
_LEAST_BUCKET, _BUCKET_PER_REPLICA = 40_000_000, 1_000_000  # core's default with overlap


@dataclass(frozen=True)
class Shard:
    """One process's part of a parameter."""

    name: str
    elements: int
    is_shared: bool = False
    """A tied embedding that lives on two pipeline stages; it has a bucket of its own."""


@dataclass(frozen=True)
class Buffer:
    """Where the parameters of a model chunk lie in its gradient buffer, in elements."""

    places: tuple[tuple[int, int], ...]
    """Start and end of each parameter, in the order of the buffer (the reverse of the model's)."""
    buckets: tuple[tuple[int, int], ...]

    @property
    def elements(self) -> int:
        """Length of the buffer, padding included."""
        return self.buckets[-1][1]

    def elements_by_replica(self, replicas: int) -> np.ndarray:
        """Parameters each data-parallel process keeps the optimizer state of: (replicas,)."""
        knots = np.array(self.places, np.float64).ravel()
        covered = np.cumsum(np.diff(self.places, axis=1).ravel())
        values = np.repeat(np.append(0, covered), 2)[1:-1]
        total = np.zeros(replicas)
        for start, end in self.buckets:
            edges = start + (end - start) // replicas * np.arange(replicas + 1)
            total += np.diff(np.interp(edges, knots, values))
        return total.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class StageShards:
    """What the processes of one pipeline stage hold: a list of parameters for each model chunk."""

    chunks: tuple[tuple[Shard, ...], ...]
    """Those that are trained: of a LoRA run the adapters."""
    frozen: tuple[Shard, ...] = ()
    """Those that are not; they lie in no buffer."""
    parallel: ParallelConfig
    replicas: int
    """Processes that share the optimizer's state: data parallel x context parallel."""
    is_first: bool
    """Only the first stage cuts its gradients into several buckets."""

    @property
    def elements(self) -> int:
        """Trained parameters of one process."""
        return sum(shard.elements for chunk in self.chunks for shard in chunk)

    @property
    def frozen_elements(self) -> int:
        """The others."""
        return sum(shard.elements for shard in self.frozen)

    @property
    def linear_elements(self) -> int:
        """Those in the matrices of layers: what FP8 keeps copies of."""
        names = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")
        held = (*self.frozen, *(shard for chunk in self.chunks for shard in chunk))
        return sum(shard.elements for shard in held if shard.name in names)

    @property
    def largest_elements(self) -> int:
        """The largest parameter: its gradient exists once beside the buffer."""
        return max(shard.elements for chunk in self.chunks for shard in chunk)

    @cached_property
    def buffers(self) -> tuple[Buffer, ...]:
        """The gradient buffer of each chunk."""
        parallel, size = self.parallel, None
        if parallel.overlap_grad_reduce:
            size = parallel.ddp_bucket_size
            size = size or max(_LEAST_BUCKET, _BUCKET_PER_REPLICA * self.replicas)
        sharded = self.replicas if parallel.use_distributed_optimizer else None
        return tuple(
            lay_out(chunk, size if self.is_first and index == 0 else None, sharded)
            for index, chunk in enumerate(self.chunks)
        )

    def weight_bytes(self, bf16: bool) -> int:
        """Weights; the distributed optimizer keeps them in a padded buffer."""
        size = 2 if bf16 else 4
        if self.parallel.use_distributed_optimizer:
            return size * (self.frozen_elements + sum(b.elements for b in self.buffers))
        return size * (self.frozen_elements + self.elements)

    def gradient_bytes(self, bf16: bool) -> int:
        """Gradients, in buffers: fp32, or by choice of bf16 weights' type."""
        size = 2 if bf16 and self.parallel.grad_reduce_in_bf16 else 4
        return size * sum(buffer.elements for buffer in self.buffers)

    def optimizer_elements(self, replica: int | None = None) -> int:
        """Parameters whose optimizer state process `replica` keeps; None: of the fullest one."""
        if not self.parallel.use_distributed_optimizer:
            return self.elements
        found = sum(buffer.elements_by_replica(self.replicas) for buffer in self.buffers)
        return int(np.max(found) if replica is None else np.asarray(found)[replica])

    def optimizer_bytes(self, of_parameter: int, replica: int | None = None) -> int:
        """`of_parameter` bytes (`BatchConfig.optimizer_bytes`) for each parameter."""
        return of_parameter * self.optimizer_elements(replica)


def checkpoint_bytes(parameters: int, bf16: bool, distributed_optimizer: bool) -> int:
    """Size of a checkpoint: weights, two fp32 moments, and fp32 weights.

    The latter where the model's are bf16; the distributed optimizer writes them in any case.
    """
    return parameters * ((2 if bf16 else 4) + 8 + 4 * (bf16 or distributed_optimizer))


def stage_shards(
    model: ModelConfig,
    parallel: ParallelConfig,
    padded_vocab_size: int,
    stage: int,
    replicas: int,
    lora: LoRAConfig | None = None,
    trained_rows: int = 0,
) -> StageShards:
    """What a process of pipeline stage `stage` holds; `replicas` is data x context parallel.

    With `lora` adapters and `trained_rows` rows of the tables are trained, and all else is frozen.
    """
    stages = parallel.pipeline_model_parallel_size
    virtual = parallel.num_virtual_stages_per_pipeline_rank
    layers = model.num_layers // (stages * virtual)
    width, tensor = model.hidden_size, parallel.tensor_model_parallel_size
    tied = not model.untie_embeddings_and_output_weights
    matrix = padded_vocab_size // tensor * width
    chunks, frozen = [], []
    for index in range(virtual):
        first, last = stage == index == 0, stage == stages - 1 and index == virtual - 1
        parts: list[Shard] = []
        if first:
            parts.append(Shard("embedding", matrix, is_shared=tied and not last))
        parts += _layer(model, tensor) * layers
        if last:
            parts.append(Shard("final_layernorm", width))
            if not (tied and first):
                parts.append(Shard("output_layer", matrix, is_shared=tied))
        if lora is not None and lora.lora_rank is not None:
            frozen += parts
            parts = _adapters(model, lora, tensor) * layers
            rows = trained_rows * width
            if first and rows:
                parts.append(Shard("embedding_rows", rows, is_shared=tied and not last))
            if last and rows and not (tied and first):
                parts.append(Shard("output_rows", rows, is_shared=tied))
        chunks.append(tuple(parts))
    return StageShards(
        chunks=tuple(chunks),
        frozen=tuple(frozen),
        parallel=parallel,
        replicas=replicas,
        is_first=stage == 0,
    )


def _adapters(model: ModelConfig, lora: LoRAConfig, tensor: int) -> list[Shard]:
    """The adapters of one layer; tensor-parallel processes divide one matrix of each."""
    parts: list[Shard] = []
    for _, target, rule in lora.targets(model):
        rows, width = shape_in_megatron(rule, model)
        divided_input = target in ("linear_proj", "linear_fc2")
        a = len(rule.huggingface) * lora.rank * width // (tensor if divided_input else 1)
        b = rows * lora.rank // (1 if divided_input else tensor)
        parts += [Shard(f"{target}_a", a), Shard(f"{target}_b", b)]
    return parts


def _layer(model: ModelConfig, tensor: int) -> list[Shard]:
    """One transformer layer, in the order in which core registers its parameters."""
    width, ffn, head = model.hidden_size, model.ffn_hidden_size // tensor, model.head_size
    queries = model.num_attention_heads * head // tensor
    joined = (model.num_attention_heads + 2 * model.num_query_groups) * head // tensor
    before = not model.post_norm
    parts = [
        *([Shard("input_layernorm", width)] if before else []),
        Shard("linear_proj", queries * width),
        Shard("linear_qkv", joined * width),
    ]
    if model.add_qkv_bias:
        parts.append(Shard("qkv_bias", joined))
    if model.qk_layernorm:
        keys = model.num_query_groups * head // tensor
        sizes = (head, head) if before else (queries, keys)
        parts += [Shard("q_layernorm", sizes[0]), Shard("k_layernorm", sizes[1])]
    return [
        *parts,
        Shard("pre_mlp_layernorm" if before else "self_attn_bda", width),
        Shard("linear_fc1", 2 * ffn * width),
        Shard("linear_fc2", ffn * width),
        *([] if before else [Shard("mlp_bda", width)]),
    ]


def lay_out(chunk: Sequence[Shard], bucket_size: int | None, replicas: int | None) -> Buffer:
    """Core's layout of a gradient buffer; `replicas` is None without the distributed optimizer.

    Parameters lie in reverse order. A bucket ends with the parameter that brings it to
    `bucket_size`. The distributed optimizer aligns parameters, pads buckets so that its processes
    share them evenly, and gives a shared embedding a bucket of its own.
    """
    places: list[tuple[int, int]] = []
    buckets: list[tuple[int, int]] = []
    unit = 1 if replicas is None else lcm(replicas, _BUCKET_UNIT)
    align = 1 if replicas is None else _ALIGNMENT
    begun = position = 0

    def close(end: int) -> int:
        buckets.append((begun, _up(end, unit)))
        return buckets[-1][1]

    for shard in reversed(chunk):
        alone = shard.is_shared and replicas is not None
        position = _up(position, align)
        if alone and position > begun:
            begun = position = close(position)
        places.append((position, position + shard.elements))
        position += shard.elements
        if alone or (bucket_size is not None and position - begun >= bucket_size):
            begun = position = close(position)
    if position > begun:
        close(position)
    return Buffer(tuple(places), tuple(buckets))


def _up(value: int, divisor: int) -> int:
    """The next multiple."""
    return -(-value // divisor) * divisor
