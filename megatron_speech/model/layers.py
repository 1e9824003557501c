"""Layers that stand in for Transformer Engine's where it is absent: RMSNorm and attention."""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from megatron.core import tensor_parallel
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
