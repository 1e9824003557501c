"""Numbers and kernels: which precision is asked for, and which layers a machine gets for it."""

from dataclasses import dataclass
from typing import Literal

import tyro

from ..errors import ConfigError, flag, require_within
from ..training.installed import Installed
from ..training.parallel_config import ParallelConfig
from .config import ModelConfig

_HOPPER = (9, 0)
_LARGE_VOCABULARY = 65_536
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
    fp8_param_gather: bool = False
    """Keep the layers' matrices in FP8 alone and gather them so (distributed optimizer): two bytes
    a weight less, half the communication; the optimizer's fp32 copies stay."""
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
    no_cross_entropy_loss_fusion: tyro.conf.FlagCreatePairsOff[bool] = False
    """Compute the loss unfused even where the fused kernel would do (bf16 on a GPU)."""
    cross_entropy_fusion_impl: Literal["auto", "native", "te"] = "auto"
    """Core's fused loss, or Transformer Engine's, which keeps no fp32 copy of the logits; auto: the
    latter for vocabularies of 65,536 and more where its layers are taken."""
    cuda_graph_impl: Literal["none", "local"] = "none"
    """Record each layer's kernels once and replay them (core's CUDA graphs; Transformer Engine)."""
    cuda_graph_modules: tuple[Literal["attn", "mlp"], ...] = ()
    """Parts of a layer that are recorded; the whole layer if not given."""

    @property
    def product_formats(self) -> tuple[str, ...]:
        """Formats of the operands of the layers' products: fp8, bf16, or both."""
        if self.fp8_format is None:
            return ("bf16",)
        return ("fp8", "bf16") if self.first_last_layers_bf16 else ("fp8",)

    def __post_init__(self) -> None:
        require_within(self, 0, "num_layers_at_start_in_bf16", "num_layers_at_end_in_bf16")
        require_within(self, 1, "fp8_amax_history_len")
        for name in ("first_last_layers_bf16", "fp8_param_gather"):
            if getattr(self, name) and self.fp8_format is None:
                raise ConfigError(f"{flag(name)} belongs to --fp8-format; drop it or set it")
        if self.cuda_graph_modules and self.cuda_graph_impl == "none":
            raise ConfigError(
                "--cuda-graph-modules needs --cuda-graph-impl local; drop it or set it"
            )
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
    """Transformer Engine's layers, which bring fused RoPE, instead of core's local ones."""
    attention: str
    """Who computes attention, in words."""
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
            "RoPE": self.transformer_engine,
            "SwiGLU": self.swiglu_fusion,
            f"cross-entropy ({self.cross_entropy})": self.cross_entropy is not None,
            f"gradient accumulation ({self.gradient_accumulation})": self.gradient_accumulation,
        }
        names = ", ".join(name for name, on in fused.items() if on) or "nothing"
        layers = "Transformer Engine" if self.transformer_engine else "local"
        return f"layers: {layers}; attention: {self.attention}; RMSNorm: {norm}; fused: {names}"


def choose(
    precision: PrecisionConfig, here: Installed, padded_vocab_size: int = 0
) -> Implementation:
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
        f"--cuda-graph-impl {precision.cuda_graph_impl}": precision.cuda_graph_impl != "none",
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
    loss = precision.cross_entropy_fusion_impl
    if loss == "auto":
        loss = "te" if engine and padded_vocab_size >= _LARGE_VOCABULARY else "native"
    accumulation = "apex" if here.apex else "Transformer Engine" if engine else None
    return Implementation(
        transformer_engine=engine,
        attention=attention,
        swiglu_fusion=on_gpu,
        cross_entropy=loss if fused_loss else None,
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
    if precision.fp8_param_gather and not parallel.use_distributed_optimizer:
        raise ConfigError(
            "--fp8-param-gather needs --use-distributed-optimizer; set it or drop both"
        )
    if precision.first_last_layers_bf16:
        share = model.num_layers // parallel.pipeline_model_parallel_size
        for name in ("num_layers_at_start_in_bf16", "num_layers_at_end_in_bf16"):
            if getattr(precision, name) > share:
                raise ConfigError(
                    f"{flag(name)} {getattr(precision, name)} is more than the {share} layers of "
                    "a pipeline stage; lower it"
                )


def check_graphs(
    precision: PrecisionConfig,
    model: ModelConfig,
    parallel: ParallelConfig,
    separate_documents: bool,
) -> None:
    """Refuse what cannot be recorded in CUDA graphs and replayed.

    Raises:
        ConfigError: names the setting to change.
    """
    if precision.cuda_graph_impl == "none":
        return
    for asked, what, why in (
        (
            separate_documents,
            "--reset-attention-mask, and datasets that are packed as whole documents",
            "where documents begin changes from window to window",
        ),
        (
            parallel.recompute_granularity == "full",
            "--recompute-granularity full",
            "core records whole layers or parts of them; recompute selectively",
        ),
        (
            parallel.cpu_offloading_num_layers > 0 or bool(parallel.offload_modules),
            "--cpu-offloading-num-layers and --offload-modules",
            "what is recorded keeps its memory",
        ),
        (
            model.hidden_dropout > 0 or model.attention_dropout > 0,
            "--hidden-dropout and --attention-dropout",
            "a repeated or continued step would draw other masks",
        ),
    ):
        if asked:
            raise ConfigError(
                f"--cuda-graph-impl {precision.cuda_graph_impl} does not work with {what}: {why}; "
                "change one of them"
            )
