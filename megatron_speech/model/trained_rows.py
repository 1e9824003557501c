"""Rows of added tokens that are trained beside adapters, while the rest of the table is frozen."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class TrainedRows(nn.Module):
    """Rows `first` .. `first + count` of an embedding or output layer, in the place of its own.

    Every tensor-parallel process has all of them, since few have a row of their range; their
    gradient is whole on each process once the backward pass ends. A tied table that lives on the
    first and the last pipeline stage has two copies, whose gradients the optimizer's side sums.
    """

    def __init__(self, table: Tensor, first: int, count: int):
        super().__init__()
        factory = {"dtype": table.dtype, "device": table.device}
        self.weight: Any = nn.Parameter(torch.zeros(count, table.size(1), **factory))
        self.weight.first_row = first
        self.first, self.count = first, count
        self.is_copy = False

    def forward(self, layer: Any, inputs: tuple[Tensor, ...], output: Any) -> Any:
        """As a forward hook of core's embedding, or of its output layer, whose output is a pair."""
        if isinstance(output, tuple):
            return self._project(layer, inputs[0], output[0]), output[1]
        return self._embed(layer, inputs[0], output)

    def _embed(self, embedding: Any, ids: Tensor, output: Tensor) -> Tensor:
        from megatron.core import parallel_state
        from megatron.core.tensor_parallel import mappings

        weight = self.weight
        if embedding.reduce_scatter_embeddings:  # this process has a part of the sequence
            weight = mappings.copy_to_tensor_model_parallel_region(weight)
            ranks = parallel_state.get_tensor_model_parallel_world_size()
            ids = ids.T.chunk(ranks)[parallel_state.get_tensor_model_parallel_rank()]
        index = ids - self.first
        own = (index >= 0) & (index < self.count)
        rows = F.embedding(index.clamp(0, self.count - 1), weight)
        return torch.where(own[..., None], rows, output)

    def _project(self, layer: Any, x: Tensor, logits: Tensor) -> Tensor:
        """Logits of these rows instead of the frozen ones'."""
        from megatron.core.tensor_parallel import mappings

        low, high, place = self._within(logits.size(-1))
        if layer.sequence_parallel:
            x = mappings.gather_from_sequence_parallel_region(x)
        else:
            x = mappings.copy_to_tensor_model_parallel_region(x)
        weight = mappings.copy_to_tensor_model_parallel_region(self.weight)
        logits[..., place : place + high - low] = F.linear(x, weight[low:high])
        return logits

    def _within(self, size: int) -> tuple[int, int, int]:
        """Those of the rows in this process's range of `size`, and where they begin in it."""
        from megatron.core import parallel_state

        start = size * parallel_state.get_tensor_model_parallel_rank()
        low, high = (min(max(start + end - self.first, 0), self.count) for end in (0, size))
        return low, high, min(max(self.first - start, 0), size)

    def start(self, table: Tensor) -> None:
        """Take the rows of the frozen table, of which each process has a range; collective."""
        from megatron.core import parallel_state

        low, high, place = self._within(len(table))
        with torch.no_grad():
            self.weight.zero_()
            self.weight[low:high] = table[place : place + high - low]
            group = parallel_state.get_tensor_model_parallel_group()
            dist.all_reduce(self.weight.data, group=group)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None
    ) -> dict[str, Any]:
        """Core's description for checkpoints; what many processes hold is written once."""
        from megatron.core import parallel_state
        from megatron.core.utils import make_sharded_tensor_for_checkpoint

        tensor_group: Any = parallel_state.get_tensor_model_parallel_group()
        data_group = (metadata or {})["dp_cp_group"]
        key = f"{prefix}weight"
        replica = (int(self.is_copy), tensor_group.rank(), data_group.rank())
        return {
            key: make_sharded_tensor_for_checkpoint(
                self.weight,
                key,
                prepend_offsets=sharded_offsets,
                replica_id=replica,
                tp_group=tensor_group,
                dp_cp_group=data_group,
            )
        }


def add_rows(chunks: Sequence[Any], first: int, stop: int) -> None:
    """Give the chunks of a frozen model rows `first` .. `stop` to train; needs a session."""
    for chunk in chunks:
        tied = chunk.share_embeddings_and_output_weights
        one_stage = chunk.pre_process and chunk.post_process
        if chunk.pre_process:
            table = chunk.embedding.word_embeddings
            chunk.embedding_rows = TrainedRows(table.weight, first, stop - first)
            table.register_forward_hook(_called(chunk.embedding_rows))
            _share(chunk.embedding_rows, tied and not one_stage, is_copy=False)
        if not chunk.post_process:
            continue
        if tied and one_stage:
            rows = chunk.embedding_rows
        else:
            rows = TrainedRows(chunk.output_layer.weight, first, stop - first)
            chunk.add_module("embedding_rows" if tied else "output_rows", rows)
            _share(rows, tied, is_copy=tied)
        chunk.output_layer.register_forward_hook(_called(rows))


def _called(rows: TrainedRows) -> Any:
    """A hook that calls the module: core waits for its parameters when it is called."""
    return lambda layer, inputs, output: rows(layer, inputs, output)


def _share(rows: TrainedRows, is_shared: bool, is_copy: bool) -> None:
    """Tell core of a parameter on two stages: a gradient bucket of its own, counted once."""
    rows.is_copy = is_copy
    if is_shared:
        rows.weight.shared_embedding = True
        rows.weight.shared = is_copy


def start_rows(chunks: Sequence[Any]) -> None:
    """Let trained rows begin as what the loaded base has in their place; collective."""
    for chunk in chunks:
        model = chunk.module
        for name in ("embedding_rows", "output_rows"):
            rows: TrainedRows | None = getattr(model, name, None)
            if rows is not None:
                at_input = name == "embedding_rows" and model.pre_process
                layer = model.embedding.word_embeddings if at_input else model.output_layer
                rows.start(layer.weight)
