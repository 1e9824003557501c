"""Numbers and kernels: which precision is asked for, and which layers a machine gets for it."""

from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError
from ..training.installed import Installed
from ..training.parallel_config import ParallelConfig, flag
from .config import ModelConfig

_HOPPER = (9, 0)
# FP8 products read their operands in rows, or blocks, of this many numbers
_FP8_UNITS = {"delayed": 16, "tensorwise": 16, "blockwise": 128}


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """Precision and implementation of the layers, in Megatron's names."""

    bf16: bool = False
    """Parameters and activations in bfloat16; gradients and optimizer stay fp32."""
    fp8_format: Literal["hybrid", "e4m3"] | None = None
    """Matrix products of the layers in FP8 (Transformer Engine); hybrid: e5m2 for gradients."""
    fp8_recipe: Literal["delayed", "tensorwise", "blockwise"] = "tensorwise"
    """Scales from the history of each tensor, from each tensor as it is, or from its blocks."""
    fp8_amax_history_len: int = 1024
    """Steps of history for delayed scales."""
    fp8_amax_compute_algo: Literal["max", "most_recent"] = "max"
    """What of that history makes the scale."""
    first_last_layers_bf16: bool = False
    """Keep the first and last layers in bf16 under FP8."""
    num_layers_at_start_in_bf16: int = 1
    """Layers kept at the start, with --first-last-layers-bf16."""
    num_layers_at_end_in_bf16: int = 1
    """Layers kept at the end, with --first-last-layers-bf16."""
    transformer_impl: Literal["auto", "local", "transformer_engine"] = "auto"
    """Transformer Engine's layers, or core's local ones; auto: the former where installed."""
    attention_backend: Literal["auto", "flash", "fused", "unfused"] = "auto"
    """Kernel of Transformer Engine's attention."""
    no_cross_entropy_loss_fusion: bool = False
    """Compute the loss unfused even where the fused kernel would do (bf16 on a GPU)."""
    cross_entropy_fusion_impl: Literal["native", "te"] = "native"
    """Core's fused loss, or Transformer Engine's, which keeps no fp32 copy of the logits."""

    def __post_init__(self) -> None:
        for name in ("num_layers_at_start_in_bf16", "num_layers_at_end_in_bf16"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{flag(name)} is {getattr(self, name)}; give 0 or more")
        if self.fp8_amax_history_len < 1:
            raise ConfigError(
                f"--fp8-amax-history-len is {self.fp8_amax_history_len}; give at least 1"
            )
        if self.first_last_layers_bf16 and self.fp8_format is None:
            raise ConfigError("--first-last-layers-bf16 belongs to --fp8-format; drop it or set it")
        if self.fp8_format is None:
            return
        if not self.bf16:
            raise ConfigError("--fp8-format needs --bf16 for everything that is not a product")
        if self.transformer_impl == "local":
            raise ConfigError("--fp8-format needs --transformer-impl transformer_engine (or auto)")
        if self.first_last_layers_bf16 and self.fp8_recipe == "delayed":
            raise ConfigError(
                "--first-last-layers-bf16 does not work with --fp8-recipe delayed (core keeps one "
                "history for all layers); choose tensorwise or blockwise"
            )


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """Layers and fused kernels a model is built with."""

    transformer_engine: bool
    """Transformer Engine's layers instead of core's local ones."""
    attention: str
    """Who computes attention, in words."""
    rope_fusion: bool
    swiglu_fusion: bool
    cross_entropy: Literal["native", "te"] | None
    """Fused loss; None: core's unfused vocabulary-parallel one."""
    gradient_accumulation: Literal["apex", "Transformer Engine"] | None
    """Who adds weight gradients to their sum within the matrix product: apex in all layers,
    Transformer Engine in its own alone (not the output layer)."""

    def describe(self) -> str:
        """One line for the log."""
        norm = "Transformer Engine" if self.transformer_engine else "torch"
        fused = {
            "RoPE": self.rope_fusion,
            "SwiGLU": self.swiglu_fusion,
            f"cross-entropy ({self.cross_entropy})": self.cross_entropy is not None,
            f"gradient accumulation ({self.gradient_accumulation})": self.gradient_accumulation,
        }
        names = ", ".join(name for name, on in fused.items() if on) or "nothing"
        layers = "Transformer Engine" if self.transformer_engine else "local"
        return f"layers: {layers}; attention: {self.attention}; RMSNorm: {norm}; fused: {names}"


def choose(precision: PrecisionConfig, here: Installed) -> Implementation:
    """What the settings ask for, as far as it is installed.

    Core's fused loss rounds its gradient to bf16, so fp32 takes the unfused one; core's apex norm
    knows no RMSNorm, so apex brings only the accumulation of gradients.

    Raises:
        ConfigError: Transformer Engine was asked for and is not there.
    """
    engine = here.has_transformer_engine and precision.transformer_impl != "local"
    on_gpu = here.gpu is not None
    fused_loss = on_gpu and precision.bf16 and not precision.no_cross_entropy_loss_fusion
    wanted = {
        "--transformer-impl transformer_engine": precision.transformer_impl == "transformer_engine",
        f"--fp8-format {precision.fp8_format}": precision.fp8_format is not None,
        f"--attention-backend {precision.attention_backend}": precision.attention_backend != "auto",
        "--cross-entropy-fusion-impl te": precision.cross_entropy_fusion_impl == "te",
    }
    version = here.transformer_engine or here.transformer_engine_error or "missing"
    for setting in (setting for setting, asked in wanted.items() if asked and not engine):
        raise ConfigError(
            f"{setting} needs Transformer Engine and a GPU, here: Transformer Engine {version}, "
            f"GPU {here.gpu or 'none'}, --transformer-impl {precision.transformer_impl}; drop "
            "it, or install the extra [gpu] on such a machine"
        )
    attention = "torch's scaled_dot_product_attention"
    if here.transformer_engine_error:
        attention += f" (not Transformer Engine {here.transformer_engine_error})"
    if engine:
        flash = f"flash-attn {here.flash_attention}" if here.flash_attention else "no flash-attn"
        backend = precision.attention_backend
        attention = f"Transformer Engine {here.transformer_engine} ({backend}, {flash})"
    accumulation = "apex" if here.apex else "Transformer Engine" if engine else None
    return Implementation(
        transformer_engine=engine,
        attention=attention,
        rope_fusion=engine,
        swiglu_fusion=on_gpu,
        cross_entropy=precision.cross_entropy_fusion_impl if fused_loss else None,
        gradient_accumulation=accumulation if on_gpu and precision.bf16 else None,
    )


def check_fp8(
    precision: PrecisionConfig,
    model: ModelConfig,
    parallel: ParallelConfig,
    tokens: int,
    here: Installed,
) -> None:
    """Refuse shapes and GPUs that FP8 products cannot take; `tokens` are those of a micro-batch.

    Raises:
        ConfigError: names the setting to change.
    """
    if precision.fp8_format is None:
        return
    if here.compute_capability < (8, 9):
        raise ConfigError(f"--fp8-format needs a GPU that computes in FP8; {here.gpu} does not")
    if precision.fp8_recipe == "blockwise" and here.compute_capability < _HOPPER:
        raise ConfigError(f"--fp8-recipe blockwise needs a Hopper GPU or later, not {here.gpu}")
    unit = _FP8_UNITS[precision.fp8_recipe]
    tensor = parallel.tensor_model_parallel_size
    each = "for each tensor-parallel process"
    for name, value in (
        ("--hidden-size", model.hidden_size),
        (f"--ffn-hidden-size, {each},", model.ffn_hidden_size // tensor),
        (
            f"--num-attention-heads x --kv-channels, {each},",
            model.num_attention_heads * model.head_size // tensor,
        ),
        ("--micro-batch-size x --seq-length, for each context-parallel process,", tokens),
    ):
        if value % unit:
            raise ConfigError(
                f"--fp8-recipe {precision.fp8_recipe} needs a multiple of {unit}, but {name} is "
                f"{value}; change it, the layout or the recipe, or use bf16"
            )
    if precision.first_last_layers_bf16:
        share = model.num_layers // parallel.pipeline_model_parallel_size
        for name in ("num_layers_at_start_in_bf16", "num_layers_at_end_in_bf16"):
            if getattr(precision, name) > share:
                raise ConfigError(
                    f"{flag(name)} {getattr(precision, name)} is more than the {share} layers of "
                    "a pipeline stage; lower it"
                )
