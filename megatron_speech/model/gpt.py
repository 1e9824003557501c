"""The one place that builds the language model from Megatron-Core's parts."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..training.parallel import ParallelConfig
from .config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What building needs to know beyond the model's shape."""

    padded_vocab_size: int
    """Rows of the embedding."""
    bf16: bool = False
    """Parameters in bfloat16 (the optimizer keeps fp32 copies)."""
    transformer_engine: bool | None = None
    """Use Transformer Engine's layers; None: if it is installed and there is a GPU."""


def uses_transformer_engine(options: BuildOptions) -> bool:
    """Whether the model is built from Transformer Engine's layers."""
    if options.transformer_engine is not None:
        return options.transformer_engine
    from megatron.core.extensions.transformer_engine import HAVE_TE

    return HAVE_TE and torch.cuda.is_available()


def build_model(
    model: ModelConfig, parallel: ParallelConfig, options: BuildOptions
) -> list[torch.nn.Module]:
    """This process's model chunks: one, or one per virtual pipeline stage.

    Needs a running `training.parallel.session`. `chunk(tokens, positions, mask)` gives logits
    (batch, length, padded vocabulary) on the last stage; with `labels=` it gives losses
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
    if torch.cuda.is_available():
        chunks = [chunk.cuda() for chunk in chunks]
    return chunks


def transformer_config(model: ModelConfig, parallel: ParallelConfig, options: BuildOptions):
    """Core's TransformerConfig. Fusions are on with Transformer Engine and off without."""
    from megatron.core.transformer import TransformerConfig

    fused = uses_transformer_engine(options)
    dtype = torch.bfloat16 if options.bf16 else torch.float32
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
        bf16=options.bf16,
        calculate_per_token_loss=True,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=(
            parallel.num_virtual_stages_per_pipeline_rank if interleaved else None
        ),
        context_parallel_size=parallel.context_parallel_size,
        sequence_parallel=parallel.sequence_parallel,
        # The interleaved schedule gives wrong losses on gloo with other values of these three.
        overlap_p2p_comm=interleaved,
        batch_p2p_comm=not interleaved,
        deallocate_pipeline_outputs=not interleaved,
        recompute_granularity=parallel.recompute_granularity,
        recompute_method=parallel.recompute_method,
        recompute_num_layers=parallel.recompute_num_layers,
        bias_activation_fusion=fused,
        masked_softmax_fusion=fused,
        bias_dropout_fusion=fused,
        apply_rope_fusion=fused,
        cross_entropy_loss_fusion=fused,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
    )


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

    if uses_transformer_engine(options):
        return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=model.qk_layernorm)
    from .layers import DotProductAttention, RMSNorm

    spec = get_gpt_layer_local_spec(qk_layernorm=model.qk_layernorm, normalization="RMSNorm")
    attention = spec.submodules.self_attention.submodules
    spec.submodules.input_layernorm = spec.submodules.pre_mlp_layernorm = RMSNorm
    attention.core_attention = DotProductAttention
    if model.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    return TransformerBlockSubmodules(
        layer_specs=[spec] * get_num_layers_to_build(config, stage), layer_norm=RMSNorm
    )
