"""Layers that core lacks: OLMo 2's norms, and without Transformer Engine RMSNorm and attention."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from megatron.core import tensor_parallel
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square norm that works under sequence parallelism.

    Core all-reduces the gradient of weights marked `sequence_parallel`; torch's own norm does
    not carry the mark.
    """

    def __init__(self, config, hidden_size: int, eps: float = 1e-5, **_: object):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, x: Float[Tensor, "... h"]) -> Float[Tensor, "... h"]:
        """Normalise the last dimension."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def sharded_weights(
    module: nn.Module,
    axes: dict[str, int],
    prefix: str,
    sharded_offsets: tuple,
    metadata: dict | None,
) -> dict[str, Any]:
    """Core's description of a module's own weights; `axes` says along which tensor-parallel
    processes share them, by name."""
    from megatron.core import parallel_state
    from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

    tensor_group: Any = parallel_state.get_tensor_model_parallel_group()
    return make_sharded_tensors_for_checkpoint(
        module.state_dict(prefix="", keep_vars=True),
        prefix,
        axes,
        sharded_offsets,
        tp_group=tensor_group,
        dp_cp_group=(metadata or {})["dp_cp_group"],
    )


class JointRMSNorm(nn.Module):
    """Root-mean-square norm of all heads together, divided by tensor-parallel processes."""

    def __init__(self, config, hidden_size: int, eps: float, num_heads: int):
        """`hidden_size` is the width of one of the `num_heads` heads."""
        from megatron.core import parallel_state
        from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes

        super().__init__()
        self.eps, self._width = eps, num_heads * hidden_size
        own = self._width // parallel_state.get_tensor_model_parallel_world_size()
        self.joint_weight = nn.Parameter(torch.ones(own, dtype=config.params_dtype))
        set_tensor_model_parallel_attributes(self.joint_weight, True, 0, 1)

    def forward(self, x: Float[Tensor, "s b heads c"]) -> Float[Tensor, "s b heads c"]:
        """Normalise this process's heads by the mean square of those of all."""
        wide = x.float()
        squares = wide.square().sum((-2, -1), keepdim=True)
        squares = tensor_parallel.reduce_from_tensor_model_parallel_region(squares)
        squares = tensor_parallel.copy_to_tensor_model_parallel_region(squares)  # sums gradients
        normed = wide * torch.rsqrt(squares / self._width + self.eps)
        return (self.joint_weight.view(x.shape[2:]) * normed).to(x.dtype)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None
    ) -> dict[str, Any]:
        """Core's description of the weight for checkpoints of any layout."""
        return sharded_weights(self, {"joint_weight": 0}, prefix, sharded_offsets, metadata)


class PostNormAdd(nn.Module):
    """Core's dropout and residual sum, behind a norm of what is added."""

    def __init__(self, config):
        super().__init__()
        self.norm = RMSNorm(config, config.hidden_size, config.layernorm_epsilon)

    def forward(self, training: bool, fused: bool) -> Callable[..., Tensor]:
        """The function that adds, as core asks for it."""
        add = get_bias_dropout_add(training, fused)

        def normed(x_with_bias: tuple[Tensor, None], residual: Tensor, prob: float) -> Tensor:
            return add((self.norm(x_with_bias[0]), None), residual, prob)

        return normed


class DotProductAttention(MegatronModule):
    """Causal attention by torch's kernels, with core's interface.

    `attention_mask` (batch, 1, s, s), True where a query must not look, includes the causal part;
    None means plain causal attention. Heads may share keys and values (grouped queries).
    """

    def __init__(
        self,
        config,
        layer_number: int,
        attn_mask_type,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        **_: object,
    ):
        super().__init__(config=config)
        dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.dropout = dropout
        self.softmax_scale = softmax_scale

    def forward(
        self,
        query: Float[Tensor, "s b heads c"],
        key: Float[Tensor, "s b groups c"],
        value: Float[Tensor, "s b groups c"],
        attention_mask: Bool[Tensor, "b 1 s s"] | None,
        attn_mask_type=None,
        attention_bias: Tensor | None = None,
        packed_seq_params=None,
    ) -> Float[Tensor, "s b width"]:
        """Attend and join the heads."""
        if packed_seq_params is not None or attention_bias is not None:
            raise NotImplementedError("packed sequences and biases need Transformer Engine")
        query, key, value = (t.permute(1, 2, 0, 3) for t in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        tracker: Any = tensor_parallel.get_cuda_rng_tracker()
        with tracker.fork() if dropout else nullcontext():
            context = F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=None if attention_mask is None else ~attention_mask,
                is_causal=attention_mask is None,
                dropout_p=dropout,
                scale=self.softmax_scale,
                enable_gqa=query.size(1) != key.size(1),
            )
        return context.permute(2, 0, 1, 3).flatten(2)
