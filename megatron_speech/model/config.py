"""The language model's shape: about twenty fields, in Megatron's names."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import ConfigError, require_within
from ..text.vocab import SpeechTextVocab
from ..training.megatron.checkpoint_check import SPEECH_TOKENIZER_KEY
from ..training.parallel_config import ParallelConfig

TRAINING_ONLY = ("hidden_dropout", "attention_dropout", "init_method_std")
"""Settings that a checkpoint's weights do not depend on."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer with RMSNorm, SwiGLU, rotary positions and grouped queries."""

    num_layers: int = 4
    """Transformer layers."""
    hidden_size: int = 256
    """Width of the residual stream."""
    ffn_hidden_size: int = 768
    """Width of the gated feed-forward layer."""
    num_attention_heads: int = 4
    """Query heads."""
    num_query_groups: int = 4
    """Key and value heads; query heads share them evenly."""
    kv_channels: int | None = None
    """Width of a head; hidden size / heads if not given."""
    max_position_embeddings: int = 256
    """Longest sequence the model is meant for."""
    rotary_base: int = 10000
    """Base of the rotary position frequencies."""
    rotary_percent: float = 1.0
    """Share of each head that is rotated."""
    rotary_interleaved: bool = False
    """Rotate neighbouring channels (GLM) instead of halves (Llama)."""
    rope_scaling_factor: float | None = None
    """Stretch low rotary frequencies by this factor as Llama 3.1 does (from 8,192 positions)."""
    untie_embeddings_and_output_weights: bool = False
    """Give the output layer weights of its own."""
    add_qkv_bias: bool = False
    """Biases in the query, key and value projections."""
    qk_layernorm: bool = False
    """Normalise queries and keys, per head (olmo2: all heads together)."""
    norm_epsilon: float = 1e-5
    """Added to the mean square in RMSNorm."""
    hidden_dropout: float = 0.0
    """Dropout on the residual branches."""
    attention_dropout: float = 0.0
    """Dropout on attention probabilities."""
    init_method_std: float = 0.02
    """Standard deviation of initial weights (output projections are scaled by depth)."""
    family: str = "llama"
    """Base-model family: decides the layout of exports (see model/families.py) and, for olmo2, that
    norms stand behind attention and feed-forward layer instead of before them."""

    def __post_init__(self) -> None:
        sizes = "num_layers hidden_size ffn_hidden_size num_attention_heads num_query_groups"
        require_within(self, 1, *sizes.split())
        if self.hidden_size % self.num_attention_heads and self.kv_channels is None:
            raise ConfigError(
                f"--hidden-size {self.hidden_size} is not a multiple of --num-attention-heads "
                f"{self.num_attention_heads}; change one or set --kv-channels"
            )
        if self.num_attention_heads % self.num_query_groups:
            raise ConfigError(
                f"--num-attention-heads {self.num_attention_heads} is not a multiple of "
                f"--num-query-groups {self.num_query_groups}"
            )

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads

    @property
    def post_norm(self) -> bool:
        """Whether blocks are OLMo 2's (arXiv 2501.00656): what attention and feed-forward layer
        put out is normalised, not what goes in; queries, and keys, over all heads together."""
        return self.family == "olmo2"

    def identity(self, vocab: SpeechTextVocab, speech_tokenizer: str | None) -> dict[str, Any]:
        """What a checkpoint must agree on with the run that loads it.

        `speech_tokenizer` is the fingerprint of the one whose codes the model learns, if known.
        """
        return {
            **{name: value for name, value in asdict(self).items() if name not in TRAINING_ONLY},
            "padded_vocab_size": vocab.padded_size,
            "vocab": vocab.fingerprint,
            SPEECH_TOKENIZER_KEY: speech_tokenizer,
        }

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> "ModelConfig":
        """The config of a stored identity or a saved `run_config.yaml`; other keys are ignored."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    def num_parameters(self, padded_vocab_size: int) -> int:
        """Weights of the model, embeddings included."""
        width, heads, groups = self.hidden_size, self.num_attention_heads, self.num_query_groups
        attention = width * self.head_size * (2 * heads + 2 * groups)
        layer = attention + 3 * width * self.ffn_hidden_size + 2 * width
        layer += self.add_qkv_bias * self.head_size * (heads + 2 * groups)
        layer += self.qk_layernorm * self.head_size * (heads + groups if self.post_norm else 2)
        embeddings = padded_vocab_size * width
        if self.untie_embeddings_and_output_weights:
            embeddings *= 2
        return self.num_layers * layer + width + embeddings

    def train_flops_per_token(self, seq_length: int, padded_vocab_size: int) -> float:
        """Floating point operations of forward and backward pass for one token of a window.

        Matrix products only, two operations a multiplication; attention counted causally (half of
        the full square); nothing for recomputation, the embedding look-up, or documents that are
        kept apart. This is the count behind TFLOP/s and MFU.
        """
        width, inner = self.hidden_size, self.num_attention_heads * self.head_size
        keys_and_values = 2 * self.num_query_groups * self.head_size
        projections = width * (2 * inner + keys_and_values) + 3 * width * self.ffn_hidden_size
        attention = inner * seq_length  # scores and values: 2 x inner x (seq_length / 2)
        forward = 2 * (self.num_layers * (projections + attention) + padded_vocab_size * width)
        return 3.0 * forward

    def check_layout(
        self, parallel: ParallelConfig, seq_length: int, padded_vocab_size: int
    ) -> None:
        """Refuse a layout this model cannot be divided into.

        Raises:
            ConfigError: names the setting to change.
        """
        tensor = parallel.tensor_model_parallel_size
        for name, value in (
            ("num-attention-heads", self.num_attention_heads),
            ("ffn-hidden-size", self.ffn_hidden_size),
            ("hidden-size", self.hidden_size),
        ):
            _require_division("tensor-model-parallel-size", tensor, name, value)
        if self.num_query_groups % tensor and tensor % self.num_query_groups:
            raise ConfigError(
                f"--tensor-model-parallel-size {tensor} neither divides --num-query-groups "
                f"{self.num_query_groups} nor is a multiple of it; choose one that does"
            )
        if self.post_norm and self.qk_layernorm:
            _require_division(
                "tensor-model-parallel-size", tensor, "num-query-groups", self.num_query_groups
            )
        if padded_vocab_size % tensor:
            raise ConfigError(
                f"--tensor-model-parallel-size {tensor} does not divide the padded vocabulary of "
                f"{padded_vocab_size}; choose a divisor"
            )
        if parallel.sequence_parallel:
            _require_division("tensor-model-parallel-size", tensor, "seq-length", seq_length)
        if parallel.context_parallel_size > 1:
            chunks = 2 * parallel.context_parallel_size
            _require_division("context-parallel-size (x 2)", chunks, "seq-length", seq_length)
        stages = parallel.pipeline_model_parallel_size
        stages *= parallel.num_virtual_stages_per_pipeline_rank
        _require_division(
            "pipeline-model-parallel-size (x virtual stages)", stages, "num-layers", self.num_layers
        )
        recomputed = parallel.recompute_num_layers
        if recomputed is not None and recomputed > self.num_layers // stages:
            raise ConfigError(
                f"--recompute-num-layers {recomputed} is more than the {self.num_layers // stages} "
                "layers of a pipeline stage (x virtual stages); lower it"
            )
        if parallel.cpu_offloading_num_layers >= self.num_layers:
            raise ConfigError(
                f"--cpu-offloading-num-layers {parallel.cpu_offloading_num_layers} must be below "
                f"--num-layers {self.num_layers}"
            )
        if seq_length > self.max_position_embeddings:
            raise ConfigError(
                f"--seq-length {seq_length} is beyond the model's --max-position-embeddings "
                f"{self.max_position_embeddings}; lower the one or raise the other"
            )


def _require_division(divisor_name: str, divisor: int, name: str, value: int) -> None:
    if value % divisor:
        raise ConfigError(
            f"--{divisor_name} {divisor} does not divide --{name} {value}; change one of them"
        )
