"""LoRA on Megatron-Core's linear layers, local or Transformer Engine's, under any layout.

Adapters are modules of their own beside the linear layers: these keep their classes, parameters
and checkpoint keys, and add an adapter's output by a forward hook. Everything else is frozen.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .config import ModelConfig
from .families import Rule, shape_in_megatron, split
from .lora_config import LoRAConfig
from .trained_rows import add_rows

_DIVIDED_INPUT = ("linear_proj", "linear_fc2")  # row-parallel: each process has a part of it


class Adapter(nn.Module):
    """What LoRA adds to a linear layer: `scale` x B A x (arXiv 2106.09685, section 4.1).

    A fused layer counts as the layers it is made of (q, k and v; gate and up), as peft has them:
    `a` (parts x rank, inputs) stacks an A for each, and a row of `b` (stacked, outputs / stacked,
    rank), in the order of the fused weight, belongs to one of them. Gate and up are stacked, for
    tensor-parallel processes to divide each.

    Of a column-parallel layer `b` is divided and `a` whole; of a row-parallel one `a` is divided
    along its inputs and `b` whole. So rank-wide products alone are sent. The whole one has equal
    gradients everywhere; under sequence parallelism each process has the part of its tokens, and
    core sums parameters marked `sequence_parallel`.
    """

    owns: Tensor
    """(outputs of this process, parts): 1 where a row of `b` belongs to a part."""

    def __init__(self, target: str, linear: Any, rule: Rule, model: ModelConfig, lora: LoRAConfig):
        from megatron.core import parallel_state
        from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes

        super().__init__()
        self.config = linear.config
        self.scale, self.dropout = lora.scale, lora.lora_dropout
        self.divided_input = target in _DIVIDED_INPUT
        rank = parallel_state.get_tensor_model_parallel_rank()
        ranks = parallel_state.get_tensor_model_parallel_world_size()
        rows, self._width = shape_in_megatron(rule, model)
        stacked = 2 if target == "linear_fc1" else 1
        of_part = _part_of_each_row(rule, rows, model).view(stacked, -1)
        width = self._width
        if self.divided_input:
            width //= ranks
        else:
            of_part = of_part.chunk(ranks, dim=1)[rank]
        self._first = rank * width if self.divided_input else 0
        self._parts = len(rule.huggingface)
        factory = {"dtype": linear.weight.dtype, "device": linear.weight.device}
        self.a = nn.Parameter(torch.empty(self._parts * lora.rank, width, **factory))
        self.b = nn.Parameter(torch.zeros(*of_part.shape, lora.rank, **factory))
        owns = F.one_hot(of_part.flatten(), self._parts).to(**factory)
        self.register_buffer("owns", owns, persistent=False)
        divided: Any
        whole: Any
        divided, whole = (self.a, self.b) if self.divided_input else (self.b, self.a)
        set_tensor_model_parallel_attributes(divided, True, 1, 1)
        set_tensor_model_parallel_attributes(whole, False, -1, 1)
        whole.sequence_parallel = self.config.sequence_parallel

    def draw(self, seed: int) -> None:
        """First values of A, the same under every layout; B is zero: nothing changes at first."""
        if self.a.is_meta:
            return
        generator = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(self._width)
        whole = torch.empty(len(self.a), self._width).uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            self.a.copy_(whole[:, self._first : self._first + self.a.size(1)])

    def forward(self, x: Float[Tensor, "s b inputs"]) -> Float[Tensor, "s2 b outputs"]:
        """What is to be added to the layer's output for its input `x`."""
        from megatron.core.tensor_parallel import mappings

        sequence_parallel = self.config.sequence_parallel
        low = F.linear(self._dropped(x), self.a)
        if self.divided_input and sequence_parallel:
            low = mappings.reduce_scatter_to_sequence_parallel_region(low)
        elif self.divided_input:
            low = mappings.reduce_from_tensor_model_parallel_region(low)
        elif sequence_parallel:
            low = mappings.gather_from_sequence_parallel_region(low)
        else:
            low = mappings.copy_to_tensor_model_parallel_region(low)
        b = self.b.flatten(0, 1)
        if self._parts > 1:  # zero for the parts that a row does not belong to
            b = (b[:, None] * self.owns[:, :, None]).flatten(1)
        return F.linear(low * self.scale, b)

    def _dropped(self, x: Tensor) -> Tensor:
        """Dropout, alike on processes that hold the same input and not on those that divide it."""
        if not (self.training and self.dropout):
            return x
        if not (self.divided_input or self.config.sequence_parallel):
            return F.dropout(x, self.dropout)
        from megatron.core import tensor_parallel

        tracker: Any = tensor_parallel.get_cuda_rng_tracker()
        with tracker.fork():
            return F.dropout(x, self.dropout)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None
    ) -> dict[str, Any]:
        """Core's description of the two matrices for checkpoints of any layout."""
        from .layers import sharded_weights

        axes = {"a": 1} if self.divided_input else {"b": 1}
        return sharded_weights(self, axes, prefix, sharded_offsets, metadata)


def add_lora(
    chunks: Sequence[Any],
    model: ModelConfig,
    lora: LoRAConfig,
    rows: tuple[int, int] | None,
    seed: int,
) -> None:
    """Freeze a model's chunks and give them adapters, and `rows` to train; needs a session.

    Raises:
        ConfigError: the model's family is not known, or cannot express it.
    """
    for chunk in chunks:
        freeze(chunk)
        for layer in chunk.decoder.layers:
            for name, target, rule in lora.targets(model):
                parent = getattr(layer, name)
                linear = getattr(parent, target)
                adapter = Adapter(target, linear, rule, model, lora)
                adapter.draw(_seed(seed, f"{layer.layer_number} {target}"))
                parent.add_module(f"{target}_lora", adapter)
                linear.register_forward_hook(_adding(adapter))
    if rows is not None:
        add_rows(chunks, *rows)


def freeze(chunk: Any) -> None:
    """Leave no parameter to train; gradients still go through, to what is added later."""
    chunk.requires_grad_(False)
    for module in chunk.modules():
        if hasattr(module, "fuse_wgrad_accumulation"):  # there is no sum to add to
            module.fuse_wgrad_accumulation = False
    if chunk.pre_process:
        chunk.embedding.register_forward_hook(_wanting_gradients)


def _wanting_gradients(module: nn.Module, inputs: Any, output: Tensor) -> None:
    """Layers that are computed again get gradients only if their input asks for some."""
    if torch.is_grad_enabled() and not output.requires_grad:
        output.requires_grad_()


def _adding(adapter: Adapter) -> Any:
    """A forward hook that adds an adapter's output to a linear layer's."""

    def add(linear: Any, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, Any]) -> Any:
        x = inputs[0]
        norm = getattr(linear, "layer_norm_weight", None)
        if norm is not None:  # a part of Transformer Engine's layer
            x = F.rms_norm(x, norm.shape, norm, linear.eps)
        return outputs[0] + adapter(x), outputs[1]

    return add


def _part_of_each_row(rule: Rule, rows: int, model: ModelConfig) -> Tensor:
    """Which Hugging Face tensor a row of the fused weight belongs to: (rows,)."""
    of_part = torch.empty(rows, dtype=torch.long, device="cpu")
    for part, own in enumerate(split(rule, torch.arange(rows, device="cpu")[:, None], model)):
        of_part[own.flatten()] = part
    return of_part


def _seed(seed: int, name: str) -> int:
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
