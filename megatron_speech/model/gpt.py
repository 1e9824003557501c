"""The one place that builds the language model from Megatron-Core's parts."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from ..training.installed import installed
from ..training.parallel_config import ParallelConfig
from .config import ModelConfig
from .precision import Implementation, PrecisionConfig, choose


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What building needs to know beyond the model's shape."""

    padded_vocab_size: int
    """Rows of the embedding."""
    vocab_rows: int | None = None
    """How many of them the model has a token for or had in its base; the rest pads and gets no
    share of the softmax. None if all are."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    """Precision, and which layers to take."""

    @property
    def implementation(self) -> Implementation:
        """The layers that are taken on this machine."""
        return choose(self.precision, installed(), self.padded_vocab_size)


def build_model(
    model: ModelConfig, parallel: ParallelConfig, options: BuildOptions
) -> list[torch.nn.Module]:
    """This process's model chunks: one, or one per virtual pipeline stage.

    Needs a running `training.megatron.parallel.session`. `chunk(tokens, positions, mask)` gives
    logits (batch, length, padded vocabulary) on the last stage; with `labels=` it gives losses
    (batch, length).
    """
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel

    config = transformer_config(model, parallel, options)
    virtual = parallel.num_virtual_stages_per_pipeline_rank
    chunks = []
    for index in range(virtual):
        stage = index if virtual > 1 else None
        chunks.append(
            GPTModel(
                config=config,
                transformer_layer_spec=_block_spec(config, model, options, stage),
                vocab_size=options.padded_vocab_size,
                max_sequence_length=model.max_position_embeddings,
                pre_process=parallel_state.is_pipeline_first_stage(
                    ignore_virtual=False, vp_stage=stage
                ),
                post_process=parallel_state.is_pipeline_last_stage(
                    ignore_virtual=False, vp_stage=stage
                ),
                share_embeddings_and_output_weights=not model.untie_embeddings_and_output_weights,
                position_embedding_type="rope",
                rotary_base=model.rotary_base,
                rotary_percent=model.rotary_percent,
                rope_scaling=model.rope_scaling_factor is not None,
                rope_scaling_factor=model.rope_scaling_factor or 1.0,
                vp_stage=stage,
            )
        )
    if options.implementation.gradient_accumulation == "Transformer Engine":
        accumulate_in_engine(chunks)
    if options.vocab_rows is not None:
        for chunk in chunks:
            if chunk.post_process:
                _mask_padding(chunk.output_layer, options.padded_vocab_size, options.vocab_rows)
    if torch.cuda.is_available():
        chunks = [chunk.cuda() for chunk in chunks]
    return chunks


def accumulate_in_engine(chunks: list[Any]) -> None:
    """Let Transformer Engine's layers add gradients to their sum themselves.

    Core's setting would do it, but refuses to build its own output layer without apex then.
    """
    for module in (module for chunk in chunks for module in chunk.modules()):
        if hasattr(module, "fuse_wgrad_accumulation"):
            module.fuse_wgrad_accumulation = True


def _mask_padding(output_layer: torch.nn.Module, padded_vocab_size: int, vocab_rows: int) -> None:
    """Give rows from `vocab_rows` on the lowest of all logits: no softmax sees them, and no
    gradient reaches them."""
    from megatron.core import parallel_state

    rank = parallel_state.get_tensor_model_parallel_rank()

    def mask(module: torch.nn.Module, inputs: Any, outputs: tuple[torch.Tensor, Any]) -> None:
        logits = outputs[0]
        size = logits.size(-1)
        first = max(vocab_rows - (rank * size if size < padded_vocab_size else 0), 0)
        if first < size:
            with torch.no_grad():  # cross-entropy's own gradient of them is zero
                logits[..., first:] = torch.finfo(logits.dtype).min

    output_layer.register_forward_hook(mask)


def transformer_config(model: ModelConfig, parallel: ParallelConfig, options: BuildOptions):
    """Core's TransformerConfig."""
    from megatron.core.transformer import TransformerConfig

    dtype = torch.bfloat16 if options.precision.bf16 else torch.float32
    interleaved = parallel.num_virtual_stages_per_pipeline_rank > 1
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=model.head_size,
        normalization="RMSNorm",
        layernorm_epsilon=model.norm_epsilon,
        qk_layernorm=model.qk_layernorm,
        add_bias_linear=False,
        add_qkv_bias=model.add_qkv_bias,
        gated_linear_unit=True,
        activation_func=F.silu,
        rotary_interleaved=model.rotary_interleaved,
        hidden_dropout=model.hidden_dropout,
        attention_dropout=model.attention_dropout,
        init_method_std=model.init_method_std,
        use_cpu_initialization=not torch.cuda.is_available(),
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=options.precision.bf16,
        calculate_per_token_loss=True,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=(
            parallel.num_virtual_stages_per_pipeline_rank if interleaved else None
        ),
        context_parallel_size=parallel.context_parallel_size,
        sequence_parallel=parallel.sequence_parallel,
        tp_comm_overlap=parallel.tp_comm_overlap,
        # The interleaved schedule gives wrong losses on gloo with other values of these three.
        overlap_p2p_comm=interleaved,
        batch_p2p_comm=not interleaved,
        deallocate_pipeline_outputs=not interleaved,
        **_memory(parallel),
        **_kernels(options),
    )


def _memory(parallel: ParallelConfig) -> dict[str, Any]:
    """What is recomputed and what waits in the memory of the CPU."""
    return {
        "recompute_granularity": parallel.recompute_granularity,
        "recompute_method": parallel.recompute_method,
        "recompute_num_layers": parallel.recompute_num_layers,
        "recompute_modules": list(parallel.recompute_modules) or None,
        "distribute_saved_activations": parallel.distribute_saved_activations,
        "cpu_offloading": parallel.cpu_offloading_num_layers > 0,
        "cpu_offloading_num_layers": parallel.cpu_offloading_num_layers,
        "cpu_offloading_weights": False,
        "fine_grained_activation_offloading": bool(parallel.offload_modules),
        "offload_modules": list(parallel.offload_modules),
    }


def _kernels(options: BuildOptions) -> dict[str, Any]:
    """Fused kernels and FP8."""
    from megatron.core.transformer.enums import AttnBackend

    precision, chosen = options.precision, options.implementation
    return {
        "bias_activation_fusion": chosen.swiglu_fusion,
        "bias_dropout_fusion": chosen.swiglu_fusion,
        "masked_softmax_fusion": False,
        "apply_rope_fusion": chosen.transformer_engine,
        "cross_entropy_loss_fusion": chosen.cross_entropy is not None,
        "cross_entropy_fusion_impl": chosen.cross_entropy or "native",
        "gradient_accumulation_fusion": chosen.gradient_accumulation == "apex",
        "persist_layer_norm": False,
        "attention_backend": AttnBackend[precision.attention_backend],
        "fp8": precision.fp8_format,
        "fp8_recipe": precision.fp8_recipe,
        "fp8_param": precision.fp8_param_gather,
        "fp8_amax_history_len": precision.fp8_amax_history_len,
        "fp8_amax_compute_algo": precision.fp8_amax_compute_algo,
        "first_last_layers_bf16": precision.first_last_layers_bf16,
        "num_layers_at_start_in_bf16": precision.num_layers_at_start_in_bf16,
        "num_layers_at_end_in_bf16": precision.num_layers_at_end_in_bf16,
        "cuda_graph_impl": precision.cuda_graph_impl,
        "cuda_graph_modules": list(precision.cuda_graph_modules),
    }


def _block_spec(config, model: ModelConfig, options: BuildOptions, stage: int | None) -> Any:
    """Layers and final norm of one model chunk."""
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_layer_local_spec,
        get_gpt_layer_with_transformer_engine_spec,
    )
    from megatron.core.transformer.transformer_block import (
        TransformerBlockSubmodules,
        get_num_layers_to_build,
    )

    if options.implementation.transformer_engine:
        spec = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=model.qk_layernorm)
        if model.post_norm:
            _norm_outputs(spec.submodules, config, model)
            _take_plain_inputs(spec.submodules)
        return spec
    from .layers import DotProductAttention, RMSNorm

    spec = get_gpt_layer_local_spec(qk_layernorm=model.qk_layernorm, normalization="RMSNorm")
    attention = spec.submodules.self_attention.submodules
    spec.submodules.input_layernorm = spec.submodules.pre_mlp_layernorm = RMSNorm
    attention.core_attention = DotProductAttention
    if model.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    if model.post_norm:
        _norm_outputs(spec.submodules, config, model)
    return TransformerBlockSubmodules(
        layer_specs=[spec] * get_num_layers_to_build(config, stage), layer_norm=RMSNorm
    )


def _norm_outputs(layer: Any, config: Any, model: ModelConfig) -> None:
    """OLMo 2's norms in place of those of a layer's specification."""
    from megatron.core.transformer.identity_op import IdentityOp
    from megatron.core.transformer.spec_utils import ModuleSpec

    from .layers import JointRMSNorm, PostNormAdd

    layer.input_layernorm = layer.pre_mlp_layernorm = IdentityOp
    layer.self_attn_bda = layer.mlp_bda = ModuleSpec(PostNormAdd, {"config": config})
    if model.qk_layernorm:
        attention = layer.self_attention.submodules
        attention.q_layernorm = partial(JointRMSNorm, num_heads=model.num_attention_heads)
        attention.k_layernorm = partial(JointRMSNorm, num_heads=model.num_query_groups)


def _take_plain_inputs(layer: Any) -> None:
    """Transformer Engine's linear layers without the norm that is otherwise a part of them."""
    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear
    from megatron.core.transformer.spec_utils import get_submodules

    layer.self_attention.submodules.linear_qkv = TEColumnParallelLinear
    mlp: Any = get_submodules(layer.mlp)
    mlp.linear_fc1 = TEColumnParallelLinear
