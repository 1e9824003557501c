"""Settings that cannot work together are refused by name before any process group starts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_speech.data.config import DataConfig
from megatron_speech.errors import ConfigError
from megatron_speech.model.config import ModelConfig
from megatron_speech.model.lora_config import LoRAConfig
from megatron_speech.model.precision import PrecisionConfig
from megatron_speech.recipes.base_model import BaseConfig
from megatron_speech.recipes.lm_check import check_settings
from megatron_speech.recipes.lm_recipes import LMConfig
from megatron_speech.training.batch_config import BatchConfig
from megatron_speech.training.health import HealthConfig
from megatron_speech.training.installed import Installed
from megatron_speech.training.loop_config import LoopConfig
from megatron_speech.training.parallel_config import ParallelConfig

CPU = Installed()
H100 = Installed(
    gpu="NVIDIA H100 80GB HBM3", compute_capability=(9, 0), transformer_engine="2.20.2"
)
A100 = replace(H100, gpu="NVIDIA A100-SXM4-80GB", compute_capability=(8, 0))
SECTIONS = {
    "model": ModelConfig,
    "data": DataConfig,
    "batch": BatchConfig,
    "precision": PrecisionConfig,
    "parallel": ParallelConfig,
    "loop": LoopConfig,
    "health": HealthConfig,
    "base": BaseConfig,
    "lora": LoRAConfig,
}
TP2, PP2 = {"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}
VPP2 = PP2 | {"num_virtual_stages_per_pipeline_rank": 2}
FP8 = {"bf16": True, "fp8_format": "hybrid"}
FULL = {"recompute_granularity": "full", "recompute_method": "block"}
GRAPHS = {"bf16": True, "cuda_graph_impl": "local"}
LORA = {"lora_rank": 8, "pretrained_checkpoint": Path("base")}
PRECISE = {"bf16": True, "use_precision_aware_optimizer": True, "use_distributed_optimizer": True}


def check(settings: dict[str, object], world: int = 1, here: Installed = CPU) -> None:
    """Build a config with some fields changed, as a command line would, and check it."""
    parts = {}
    for name, section in SECTIONS.items():
        fields = section.__dataclass_fields__
        parts[name] = section(**{k: v for k, v in settings.items() if k in fields})
    known = {field for section in SECTIONS.values() for field in section.__dataclass_fields__}
    assert settings.keys() <= known
    check_settings(LMConfig(**parts), 2048, world, here)


# settings, processes, machine, what the error must name
ILLEGAL = [
    # the model over its processes
    ({"tensor_model_parallel_size": 3}, 3, CPU, "--num-attention-heads 4"),
    (TP2 | {"ffn_hidden_size": 333}, 2, CPU, "--ffn-hidden-size 333"),
    (TP2 | {"hidden_size": 255, "kv_channels": 8}, 2, CPU, "--hidden-size 255"),
    (
        TP2 | {"num_attention_heads": 12, "num_query_groups": 3, "kv_channels": 8},
        2, CPU, "--num-query-groups 3",
    ),
    ({"pipeline_model_parallel_size": 3}, 3, CPU, "--num-layers 4"),
    (VPP2 | {"num_layers": 6}, 2, CPU, "virtual stages"),
    ({"num_virtual_stages_per_pipeline_rank": 2}, 1, CPU, "--pipeline-model-parallel-size"),
    ({"tensor_model_parallel_size": 0}, 1, CPU, "at least 1"),
    ({"context_parallel_size": -1}, 1, CPU, "at least 1"),
    (TP2, 3, CPU, "--nproc-per-node"),
    (TP2 | PP2, 2, CPU, "tensor 2 x pipeline 2"),
    ({"num_attention_heads": 3, "hidden_size": 100}, 1, CPU, "--kv-channels"),
    ({"num_attention_heads": 4, "num_query_groups": 3}, 1, CPU, "--num-query-groups 3"),
    # sequences
    ({"sequence_parallel": True}, 1, CPU, "--tensor-model-parallel-size"),
    (TP2 | {"sequence_parallel": True, "seq_length": 255}, 2, CPU, "--seq-length 255"),
    ({"context_parallel_size": 2}, 2, CPU, "--context-parallel-size 2 needs GPUs"),
    (
        {"context_parallel_size": 2}, 2, replace(H100, transformer_engine=None),
        "Transformer Engine",
    ),
    ({"context_parallel_size": 2, "seq_length": 254}, 2, H100, "--seq-length 254"),
    (
        {"context_parallel_size": 2, "reset_attention_mask": True}, 2, H100,
        "--reset-attention-mask",
    ),
    ({"max_position_embeddings": 128}, 1, CPU, "--seq-length 256"),
    # the batch
    ({"global_batch_size": 24}, 1, CPU, "--global-batch-size 24"),
    ({"micro_batch_size": 3}, 1, CPU, "--micro-batch-size 3"),
    ({}, 2, CPU, "2 data-parallel processes"),
    (VPP2 | {"micro_batch_size": 4, "global_batch_size": 12}, 2, CPU, "interleaved over 2"),
    ({"micro_batch_size": 0}, 1, CPU, "at least 1"),
    ({"step_batch_size_schedule": "0:8 1K:32"}, 1, CPU, "--global-batch-size is 16"),
    ({"step_batch_size_schedule": "0:8 1K:16"}, 1, CPU, "--step-batch-size-schedule 8"),
    ({"step_batch_size_schedule": "1K:16"}, 1, CPU, "begin at token 0"),
    ({"step_batch_size_schedule": "0:32 5K:64 4K:16"}, 1, CPU, "growing"),
    ({"step_batch_size_schedule": "0:16 many:16"}, 1, CPU, "'many:16'"),
    ({"step_batch_size_schedule": "0:16 1K"}, 1, CPU, "'1K'"),
    ({"step_batch_size_schedule": ""}, 1, CPU, "--step-batch-size-schedule"),
    # optimizer and schedule
    ({"overlap_param_gather": True}, 1, CPU, "--use-distributed-optimizer"),
    (
        {"overlap_param_gather": True, "use_distributed_optimizer": True}, 1, CPU,
        "--overlap-grad-reduce",
    ),
    ({"ddp_bucket_size": 0}, 1, CPU, "--ddp-bucket-size"),
    ({"lr_warmup_iters": 1000}, 1, CPU, "--lr-warmup-iters 1000"),
    ({"lr_warmup_iters": 10, "lr_decay_iters": 10}, 1, CPU, "--lr-decay-iters 10"),
    ({"lr_wsd_decay_iters": 10}, 1, CPU, "--lr-decay-style WSD"),
    (
        {"lr_decay_style": "WSD", "lr_wsd_decay_iters": 901, "lr_warmup_iters": 100}, 1, CPU,
        "--lr-wsd-decay-iters 901",
    ),
    ({"lr": 1e-5, "min_lr": 1e-4}, 1, CPU, "--min-lr"),
    ({"lr_warmup_init": 1.0}, 1, CPU, "--lr-warmup-init"),
    ({"clip_grad": -1.0}, 1, CPU, "--clip-grad"),
    ({"weight_decay": float("nan")}, 1, CPU, "--weight-decay"),
    ({"adam_beta2": 1.0}, 1, CPU, "--adam-beta2"),
    ({"start_weight_decay": 0.1}, 1, CPU, "--weight-decay-incr-style"),
    ({"weight_decay_incr_style": "cosine"}, 1, CPU, "--start-weight-decay"),
    # activations
    ({"recompute_granularity": "full"}, 1, CPU, "--recompute-method"),
    (FULL | {"recompute_num_layers": 5}, 1, CPU, "--recompute-num-layers 5"),
    (PP2 | FULL | {"recompute_num_layers": 3}, 2, CPU, "the 2 layers"),
    (
        {"recompute_granularity": "selective", "recompute_num_layers": 1}, 1, CPU,
        "--recompute-granularity full",
    ),
    ({"recompute_method": "uniform"}, 1, CPU, "--recompute-granularity"),
    ({"recompute_modules": ("mlp",)}, 1, CPU, "--recompute-granularity selective"),
    (
        {"recompute_granularity": "selective", "recompute_modules": ("layernorm",)}, 1, CPU,
        "--recompute-modules layernorm",
    ),
    ({"distribute_saved_activations": True}, 1, CPU, "--recompute-granularity full"),
    (
        FULL | {"recompute_num_layers": 1, "distribute_saved_activations": True}, 1, CPU,
        "--tensor-model-parallel-size",
    ),
    (
        FULL | TP2 | {"recompute_num_layers": 1, "distribute_saved_activations": True,
                      "sequence_parallel": True}, 2, CPU, "--sequence-parallel",
    ),
    ({"cpu_offloading_num_layers": 2}, 1, CPU, "--cpu-offloading-num-layers 2 needs GPUs"),
    ({"cpu_offloading_num_layers": 4}, 1, H100, "--num-layers 4"),
    (PP2 | {"cpu_offloading_num_layers": 1}, 2, H100, "--pipeline-model-parallel-size 1"),
    (
        FULL | {"recompute_num_layers": 1, "cpu_offloading_num_layers": 1}, 1, H100,
        "--recompute-granularity",
    ),
    ({"offload_modules": ("core_attn",)}, 1, CPU, "--offload-modules core_attn needs GPUs"),
    ({"offload_modules": ("core_attn",)}, 1, H100, "NVTE_CPU_OFFLOAD_V1"),
    ({"offload_modules": ("attn_proj",)}, 1, H100, "core_attn beside it"),
    (
        {"offload_modules": ("core_attn",), "cpu_offloading_num_layers": 1}, 1, H100,
        "exclude each other",
    ),
    # precision
    ({"fp8_format": "hybrid"}, 1, H100, "--bf16"),
    (FP8, 1, CPU, "needs Transformer Engine and a GPU"),
    (FP8, 1, A100, "computes in FP8"),
    (FP8 | {"transformer_impl": "local"}, 1, H100, "--transformer-impl transformer_engine"),
    (
        FP8 | {"fp8_recipe": "delayed", "first_last_layers_bf16": True}, 1, H100,
        "--fp8-recipe delayed",
    ),
    # GLM-4's width over two processes is no multiple of a block: Transformer Engine would fail
    (
        FP8 | TP2 | {"fp8_recipe": "blockwise", "ffn_hidden_size": 13_696,
                     "global_batch_size": 16}, 2, H100, "multiple of 128.*is 6848",
    ),
    ({"bf16": True, "first_last_layers_bf16": True}, 1, H100, "--fp8-format"),
    ({"grad_reduce_in_bf16": True}, 1, H100, "--bf16"),
    (
        FP8 | {"fp8_recipe": "tensorwise", "first_last_layers_bf16": True,
               "num_layers_at_start_in_bf16": 5}, 1, H100, "--num-layers-at-start-in-bf16 5",
    ),
    (
        FP8 | {"fp8_recipe": "blockwise"}, 1, replace(H100, compute_capability=(8, 9)),
        "--fp8-recipe blockwise",
    ),
    (FP8 | {"ffn_hidden_size": 776}, 1, H100, "--ffn-hidden-size"),
    (FP8 | TP2 | {"ffn_hidden_size": 1488, "global_batch_size": 16}, 2, H100, "is 744"),
    (FP8 | {"micro_batch_size": 1, "seq_length": 120}, 1, H100, "--seq-length"),
    ({"transformer_impl": "transformer_engine"}, 1, CPU, "--transformer-impl"),
    ({"bf16": True, "cross_entropy_fusion_impl": "te"}, 1, CPU, "--cross-entropy-fusion-impl te"),
    ({"attention_backend": "flash"}, 1, CPU, "--attention-backend flash"),
    ({"fp8_amax_history_len": 0}, 1, CPU, "--fp8-amax-history-len"),
    # userbuffers, FP8 weights, CUDA graphs
    (TP2 | {"tp_comm_overlap": True, "global_batch_size": 16}, 2, H100, "--sequence-parallel"),
    ({"tp_comm_overlap": True}, 1, H100, "--tensor-model-parallel-size"),
    (
        TP2 | {"tp_comm_overlap": True, "sequence_parallel": True, "global_batch_size": 16}, 2, CPU,
        "--tp-comm-overlap needs GPUs with Transformer Engine",
    ),
    (
        TP2 | {"tp_comm_overlap": True, "sequence_parallel": True, "global_batch_size": 16,
               "transformer_impl": "local"}, 2, H100, "--transformer-impl local",
    ),
    ({"bf16": True, "fp8_param_gather": True}, 1, H100, "--fp8-format"),
    (FP8 | {"fp8_param_gather": True}, 1, H100, "--use-distributed-optimizer"),
    (GRAPHS, 1, CPU, "--cuda-graph-impl local needs Transformer Engine and a GPU"),
    ({"cuda_graph_modules": ("attn",)}, 1, H100, "--cuda-graph-impl"),
    (GRAPHS | {"reset_attention_mask": True}, 1, H100, "--reset-attention-mask"),
    (GRAPHS | FULL | {"recompute_num_layers": 1}, 1, H100, "--recompute-granularity full"),
    (GRAPHS | {"cpu_offloading_num_layers": 1}, 1, H100, "--cpu-offloading-num-layers"),
    (GRAPHS | {"hidden_dropout": 0.1}, 1, H100, "--hidden-dropout"),
    # the optimizer's types
    ({"exp_avg_dtype": "bf16"}, 1, H100, "--exp-avg-dtype bf16 belongs to"),
    ({"main_params_dtype": "fp16"}, 1, H100, "--main-params-dtype fp16 belongs to"),
    (PRECISE, 1, CPU, "--use-precision-aware-optimizer needs Transformer Engine"),
    (PRECISE | {"bf16": False}, 1, H100, "--bf16"),
    (PRECISE | {"use_distributed_optimizer": False}, 1, H100, "--use-distributed-optimizer"),
    (PRECISE | {"main_grads_dtype": "bf16"}, 1, H100, "--grad-reduce-in-bf16"),
    (PRECISE | {"grad_reduce_in_bf16": True}, 1, H100, "--main-grads-dtype fp32"),
    (FP8 | PRECISE | {"main_params_dtype": "fp16"}, 1, H100, "--fp8-recipe tensorwise"),
    # adapters
    ({"lora_rank": 8}, 1, CPU, "--lora-rank 8 needs --pretrained-checkpoint"),
    (GRAPHS | LORA, 1, H100, "--cuda-graph-impl"),
    (
        FP8 | LORA | {"fp8_param_gather": True, "use_distributed_optimizer": True}, 1, H100,
        "--fp8-param-gather",
    ),
    (LORA | {"qk_layernorm": True}, 1, CPU, "--qk-layernorm"),
    # the loop and its health
    ({"wandb_exp_name": "a"}, 1, CPU, "--wandb-project"),
    ({"bad_step_limit": 0}, 1, CPU, "--bad-step-limit"),
    ({"loss_spike_factor": 0.5}, 1, CPU, "--loss-spike-factor"),
    ({"loss_spike_window": 2}, 1, CPU, "--loss-spike-window"),
    ({"grad_norm_skip_threshold": 0.0}, 1, CPU, "--grad-norm-skip-threshold"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "world", "here", "named"), ILLEGAL)
def test_what_cannot_work_is_refused_by_name(settings, world, here, named, monkeypatch):
    monkeypatch.delenv("NVTE_CPU_OFFLOAD_V1", raising=False)
    with pytest.raises(ConfigError, match=named.replace("(", r"\(")) as refusal:
        check(settings, world, here)
    assert "--" in str(refusal.value)
    assert not torch.distributed.is_initialized()


LEGAL = [
    ({}, 1, CPU),
    (TP2 | PP2 | {"sequence_parallel": True, "micro_batch_size": 8}, 4, CPU),
    (VPP2 | {"micro_batch_size": 4}, 2, CPU),
    ({"context_parallel_size": 2}, 2, H100),
    (
        {"micro_batch_size": 4, "use_distributed_optimizer": True, "overlap_grad_reduce": True,
         "overlap_param_gather": True}, 2, CPU,
    ),
    ({"micro_batch_size": 4, "step_batch_size_schedule": "0:4 1K:8 1M:16"}, 1, CPU),
    ({"lr_decay_style": "WSD", "lr_wsd_decay_iters": 900, "lr_warmup_iters": 100}, 1, CPU),
    (FULL | {"recompute_num_layers": 4}, 1, CPU),
    ({"recompute_granularity": "selective", "recompute_modules": ("mlp", "core_attn")}, 1, CPU),
    (FULL | TP2 | {"recompute_num_layers": 1, "distribute_saved_activations": True}, 2, CPU),
    ({"cpu_offloading_num_layers": 3}, 1, H100),
    (FP8, 1, H100),
    (FP8 | {"fp8_recipe": "blockwise", "first_last_layers_bf16": True}, 1, H100),
    (FP8 | TP2 | {"ffn_hidden_size": 13_696, "global_batch_size": 16}, 2, H100),
    (FP8 | {"first_last_layers_bf16": True}, 1, H100),
    (FP8 | {"fp8_param_gather": True, "use_distributed_optimizer": True}, 1, H100),
    (
        TP2 | {"tp_comm_overlap": True, "sequence_parallel": True, "global_batch_size": 16}, 2,
        H100,
    ),
    (GRAPHS | {"cuda_graph_modules": ("attn", "mlp")}, 1, H100),
    (GRAPHS | {"recompute_granularity": "selective", "recompute_modules": ("mlp",)}, 1, H100),
    ({"loss_spike_factor": 1.5, "bad_step_policy": "rollback"}, 1, CPU),
    (LORA | {"lora_train_embedding": True}, 1, CPU),
    (LORA | FP8, 1, H100),
    (
        PRECISE | {"grad_reduce_in_bf16": True, "main_grads_dtype": "bf16",
                   "exp_avg_dtype": "bf16", "exp_avg_sq_dtype": "fp8"}, 1, H100,
    ),
    (FP8 | PRECISE | {"main_params_dtype": "fp16", "fp8_recipe": "delayed"}, 1, H100),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "world", "here"), LEGAL)
def test_what_works_is_let_through(settings, world, here):
    check(
        settings | ({} if "micro_batch_size" in settings else {"micro_batch_size": 2}), world, here
    )


def test_wandb_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr("megatron_speech.training.loop_config.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        check({"wandb_project": "speech"})
