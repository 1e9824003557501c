"""Bytes that forward passes leave for backward passes, on one process.

Counted tensor by tensor, as core's layers and their kernels keep them; what tests measure on CPU
is equal to it. Attention is a fused kernel (flash, cuDNN, torch's), so no scores are kept.
"""

from dataclasses import dataclass, field
from functools import cached_property

from ..model.config import ModelConfig
from ..model.families import shape_in_megatron
from ..model.lora_config import LoRAConfig
from ..model.precision import Implementation
from ..training.parallel_config import ParallelConfig


@dataclass(frozen=True, kw_only=True)
class Activations:
    """What the layers and the head of a process keep of one micro-batch.

    FP8 is counted as bf16: Transformer Engine keeps some inputs in one byte, so it is an upper
    bound there.
    """

    model: ModelConfig
    parallel: ParallelConfig
    padded_vocab_size: int
    micro_batch_size: int
    seq_length: int
    bf16: bool
    implementation: Implementation
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    trained_rows: int = 0

    @property
    def tokens(self) -> int:
        """Positions of a micro-batch that this process sees."""
        return self.micro_batch_size * self.seq_length // self.parallel.context_parallel_size

    @property
    def _size(self) -> int:
        return 2 if self.bf16 else 4

    @property
    def _divisor(self) -> int:
        """How many processes share the residual stream."""
        parallel = self.parallel
        return parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1

    @property
    def _composite(self) -> bool:
        """On CPU, where nothing is fused, torch composes norms of operations in fp32."""
        return not self.implementation.swiglu_fusion

    @property
    def residual(self) -> int:
        """The stream between layers."""
        return self._size * self.tokens * self.model.hidden_size // self._divisor

    def _norm(self, rows: int, width: int, own_input: bool = True) -> int:
        """What a norm of `rows` vectors keeps, without its output."""
        if self._composite:  # the input in fp32, its scale, and their product
            inputs = 4 * rows * width if self.bf16 or own_input else 0
            return inputs + 4 * rows * width + 4 * rows
        return (self._size * rows * width if own_input else 0) + 4 * rows

    @cached_property
    def norms(self) -> int:
        """The two norms of a layer: input, scale, and the output, which the next product keeps.

        Of norms behind the products, as much: these keep the stream, and the norms their outputs.
        """
        rows = self.tokens // self._divisor
        return 2 * (self._norm(rows, self.model.hidden_size) + self.residual)

    @cached_property
    def attention(self) -> int:
        """Queries, keys and values, output and log-sums; the values are a view of all three."""
        model, tensor = self.model, self.parallel.tensor_model_parallel_size
        head, tokens, size = model.head_size, self.tokens, self._size
        heads, groups = model.num_attention_heads // tensor, model.num_query_groups // tensor
        joined = (model.num_attention_heads + 2 * model.num_query_groups) * head
        if groups:
            joined //= tensor  # with fewer groups than processes core gathers all of them
        kept = size * tokens * joined
        kept += size * tokens * head * (heads + max(groups, 1))  # after the rotation
        kept += size * tokens * head * heads + 4 * tokens * heads
        if not self.implementation.transformer_engine:
            rotated = int(head * model.rotary_percent)
            kept += 4 * size * rotated * tokens // self.micro_batch_size
        if model.qk_layernorm:
            copied = groups > 1 and heads > groups
            for own, has_input in ((heads, copied), (max(groups, 1), False)):
                if model.post_norm:  # torch composes it on GPUs too
                    inputs = self.bf16 or has_input
                    kept += 4 * tokens * (1 + (1 + inputs) * own * head)
                else:
                    kept += self._norm(tokens * own, head, own_input=has_input)
        return kept

    @cached_property
    def mlp(self) -> int:
        """Both inputs of the gate and their product; unfused, also SiLU's output and a copy."""
        parts = 3 if self.implementation.swiglu_fusion else 5
        width = self.model.ffn_hidden_size // self.parallel.tensor_model_parallel_size
        return parts * self._size * self.tokens * width

    @property
    def layer(self) -> int:
        """A layer of which nothing is computed again."""
        return self.norms + self.attention + self.mlp + self.adapters

    @cached_property
    def adapters(self) -> int:
        """Of each adapter the products of its rank, and of a fused layer's the matrix with zeros.

        What goes into a frozen layer is kept for its adapter instead; without one it would not be,
        so with fewer --lora-targets this is an upper bound.
        """
        if self.lora.lora_rank is None:
            return 0
        tensor, kept = self.parallel.tensor_model_parallel_size, 0
        for _, target, rule in self.lora.targets(self.model):
            parts = len(rule.huggingface)
            if target in ("linear_proj", "linear_fc2"):
                kept += self.tokens // self._divisor * self.lora.rank
                continue
            kept += self.tokens * parts * self.lora.rank
            if parts > 1:
                rows, _ = shape_in_megatron(rule, self.model)
                kept += rows // tensor * parts * self.lora.rank
        return self._size * kept

    @property
    def selective_layer(self) -> int:
        """A layer whose --recompute-modules are computed again."""
        modules = self.parallel.recompute_modules or ("core_attn",)
        kept = self.layer
        if "core_attn" in modules:  # all but the log-sums is kept by its neighbours anyway
            tensor = self.parallel.tensor_model_parallel_size
            kept -= 4 * self.tokens * self.model.num_attention_heads // tensor
        if "mlp" in modules:
            kept -= self.mlp
            if self.implementation.transformer_engine:  # its norm is a part of the product
                kept -= self.norms // 2 - self.residual
        return kept

    def layers(self, number: int) -> int:
        """`number` layers of a model chunk, with what is computed again left out."""
        parallel = self.parallel
        if parallel.recompute_granularity is None:
            return number * self.layer
        if parallel.recompute_granularity == "selective":
            return number * self.selective_layer
        each = parallel.recompute_num_layers or 1
        checkpoint = self.residual
        if parallel.distribute_saved_activations:
            checkpoint //= parallel.tensor_model_parallel_size
        if parallel.recompute_method == "block":
            return each * checkpoint + (number - each) * self.layer
        return -(-number // each) * checkpoint

    @property
    def recomputed(self) -> int:
        """What a recomputation brings back at a time, while gradients go through it."""
        parallel = self.parallel
        if parallel.recompute_granularity == "selective":
            return self.layer - self.selective_layer
        if parallel.recompute_granularity == "full":
            uniform = parallel.recompute_method == "uniform"
            return self.layer * (parallel.recompute_num_layers or 1 if uniform else 1)
        return 0

    @property
    def gradients(self) -> int:
        """Gradients under way in a layer: of the gate's parts, and of the stream as a whole."""
        model, tensor = self.model, self.parallel.tensor_model_parallel_size
        wide = 3 * model.ffn_hidden_size // tensor
        return self._size * self.tokens * (wide + 2 * model.hidden_size)

    @property
    def _logits(self) -> int:
        """Numbers in this process's logits."""
        return self.tokens * self.padded_vocab_size // self.parallel.tensor_model_parallel_size

    @property
    def head(self) -> int:
        """Final norm, and of the loss the softmax (or, by Transformer Engine, the gradient)."""
        rows = self.tokens // self._divisor
        norm = self._norm(rows, self.model.hidden_size) + self.residual
        loss = self.implementation.cross_entropy
        return norm + (self._size if loss == "te" else 4) * self._logits + 9 * self.tokens

    @property
    def head_peak(self) -> int:
        """The same with what exists for a moment: logits before the loss, or their gradient.

        Afterwards the gradient of the output matrix stands beside that of the logits.
        """
        matrix = self.padded_vocab_size * self.model.hidden_size
        matrix //= self.parallel.tensor_model_parallel_size
        if self.lora.lora_rank is not None:
            matrix = self.trained_rows * self.model.hidden_size
        copied = self.implementation.cross_entropy == "te" or self.bf16
        second = self._size * self._logits if copied else 0
        kept = 4 if self.implementation.cross_entropy != "te" else self._size
        after = self._size * (self._logits + matrix)
        return self.head - kept * self._logits + max(kept * self._logits + second, after)

    @property
    def embedding(self) -> int:
        """The ids, on the first stage, and which of them are another process's."""
        return (8 + (self.parallel.tensor_model_parallel_size > 1)) * self.tokens
