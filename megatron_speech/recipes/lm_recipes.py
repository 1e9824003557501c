"""Named configs of language models.

`*-smoke` and `*-debug` fit two CPU cores; `t2t-*` are text-to-token models, `lm-*` speech-text
language models, `sft-*` their fine-tuning on dialogues. Where the paper (arXiv 2411.17607, section
6) is silent, the value is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..data.config import DataConfig
from ..model.config import ModelConfig
from ..model.lora_config import LoRAConfig
from ..model.precision import PrecisionConfig
from ..training.batch_config import BatchConfig
from ..training.health import HealthConfig
from ..training.loop_config import LoopConfig
from ..training.parallel_config import ParallelConfig
from .base_model import BaseConfig


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """Everything a pre-training run is made of."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)


def lm_debug() -> LMConfig:
    """3.5M parameters, 3M tokens: minutes on two CPU cores."""
    return LMConfig(
        model=ModelConfig(
            num_layers=4,
            hidden_size=256,
            ffn_hidden_size=704,
            num_attention_heads=4,
            num_query_groups=2,
            max_position_embeddings=512,
            init_method_std=0.06,
        ),
        # A window holds several short stories. Kept apart, and in many small steps, the model
        # learns within a million tokens to read codes; run together it does not in three.
        data=DataConfig(seq_length=256, reset_attention_mask=True),
        batch=BatchConfig(
            micro_batch_size=4,
            global_batch_size=4,
            adam_beta2=0.98,
            lr_warmup_iters=100,
            eval_iters=32,
        ),
        loop=LoopConfig(train_iters=2928, save_interval=500, eval_interval=0),
    )


def lm_smoke() -> LMConfig:
    """lm-debug for 20 steps."""
    return _shortened(lm_debug())


def t2t_debug() -> LMConfig:
    """2M parameters, packed whole documents: the text-to-token model of the demo."""
    return LMConfig(
        model=ModelConfig(
            num_layers=4,
            hidden_size=192,
            ffn_hidden_size=512,
            num_attention_heads=3,
            num_query_groups=3,
            max_position_embeddings=512,
        ),
        data=DataConfig(seq_length=256),
        batch=BatchConfig(lr_warmup_iters=30, eval_iters=8),
        loop=LoopConfig(train_iters=700, save_interval=200, eval_interval=0),
    )


def t2t_smoke() -> LMConfig:
    """t2t-debug for 20 steps."""
    return _shortened(t2t_debug())


def sft_debug() -> LMConfig:
    """Fine-tuning of lm-debug on dialogues: minutes on two CPU cores."""
    base = lm_debug()
    return replace(
        base,
        data=DataConfig(seq_length=256),
        batch=replace(base.batch, lr=1e-3, lr_warmup_iters=50, eval_iters=16),
        loop=LoopConfig(train_iters=800, save_interval=400, eval_interval=0),
    )


def sft_smoke() -> LMConfig:
    """sft-debug for 20 steps."""
    return _shortened(sft_debug())


def lm_1_5b() -> LMConfig:
    """The paper's small speech-text model: 1.5B parameters, sequences of 8,192."""
    return LMConfig(
        model=_MODEL_1_5B,
        data=DataConfig(seq_length=8192),
        batch=BatchConfig(
            micro_batch_size=1,
            global_batch_size=256,
            lr=2e-4,
            lr_warmup_iters=1000,
            eval_iters=16,
        ),
        precision=PrecisionConfig(bf16=True),
        parallel=ParallelConfig(
            use_distributed_optimizer=True, overlap_grad_reduce=True, overlap_param_gather=True
        ),
        loop=LoopConfig(train_iters=100_000, save_interval=1000, eval_interval=1000),
    )


def lm_9b() -> LMConfig:
    """The paper's model: GLM-4-9B's shape, 1T tokens, learning rate 6e-5 to 6e-6.

    The paper starts from GLM-4-9B-Base: give its import as --pretrained-checkpoint.
    """
    return LMConfig(
        model=ModelConfig(
            num_layers=40,
            hidden_size=4096,
            ffn_hidden_size=13696,
            num_attention_heads=32,
            num_query_groups=2,
            kv_channels=128,
            max_position_embeddings=8192,
            rotary_percent=0.5,
            rotary_interleaved=True,
            untie_embeddings_and_output_weights=True,
            add_qkv_bias=True,
            norm_epsilon=1.5625e-07,
            family="glm",
        ),
        data=DataConfig(seq_length=8192),
        batch=BatchConfig(
            micro_batch_size=1,
            global_batch_size=512,
            lr=6e-5,
            lr_warmup_iters=500,
            eval_iters=16,
            dist_ckpt_optim_fully_reshardable=False,  # gathering would take 427 GiB of a node
        ),
        precision=PrecisionConfig(bf16=True),
        parallel=ParallelConfig(
            tensor_model_parallel_size=2,
            sequence_parallel=True,
            use_distributed_optimizer=True,
            overlap_grad_reduce=True,
            overlap_param_gather=True,
            ddp_bucket_size=256_000_000,  # core's grows with the processes: they could not change
        ),
        loop=LoopConfig(train_iters=238_419, save_interval=1000, eval_interval=1000),
    )


def sft_9b() -> LMConfig:
    """Fine-tuning of lm-9b on dialogues, with the settings of the authors' later chat model.

    These are learning rate 1e-5 to 1e-6, weight decay, hidden dropout and gradient clipping (paper
    section 8: GLM-4-Voice); the 2411.17607 model's own are not known. Batch and number of steps are
    ours. Give the pre-training run as --pretrained-checkpoint.
    """
    base = lm_9b()
    return replace(
        base,
        model=replace(base.model, hidden_dropout=0.5),
        batch=replace(
            base.batch,
            global_batch_size=64,
            lr=1e-5,
            lr_decay_style="cosine",
            weight_decay=0.1,
            clip_grad=1.0,
            lr_warmup_iters=100,
        ),
        loop=LoopConfig(train_iters=4000, save_interval=500, eval_interval=500),
    )


def lm_0_6b() -> LMConfig:
    """Qwen3-0.6B's shape for one GPU: give its import as --pretrained-checkpoint."""
    return _on_one_gpu(hidden_size=1024, ffn_hidden_size=3072)


def lm_1_7b() -> LMConfig:
    """Qwen3-1.7B's shape for one GPU: give its import as --pretrained-checkpoint."""
    return _on_one_gpu(hidden_size=2048, ffn_hidden_size=6144)


def sft_9b_lora() -> LMConfig:
    """Fine-tuning of lm-9b on dialogues by LoRA, on one GPU.

    Give the pre-training run, or an import of a model that speaks, as --pretrained-checkpoint.
    Rank, rate and number of steps are ours.
    """
    base = sft_9b()
    return replace(
        base,
        model=replace(base.model, hidden_dropout=0.0),
        data=DataConfig(seq_length=4096),
        batch=replace(base.batch, global_batch_size=32, lr=1e-4, min_lr=1e-5),
        parallel=ParallelConfig(
            use_distributed_optimizer=True,
            recompute_granularity="full",
            recompute_method="uniform",
            recompute_num_layers=1,
        ),
        loop=LoopConfig(train_iters=2000, save_interval=250, eval_interval=250),
        lora=LoRAConfig(lora_rank=32, lora_alpha=64, lora_dropout=0.05),
    )


def _on_one_gpu(hidden_size: int, ffn_hidden_size: int) -> LMConfig:
    """A small Qwen3 on sequences of 4,096; batch and rates are ours."""
    base = lm_1_5b()
    return replace(
        base,
        model=ModelConfig(
            num_layers=28,
            hidden_size=hidden_size,
            ffn_hidden_size=ffn_hidden_size,
            num_attention_heads=16,
            num_query_groups=8,
            kv_channels=128,
            max_position_embeddings=8192,
            rotary_base=1_000_000,
            qk_layernorm=True,
            norm_epsilon=1e-6,
            family="qwen3",
        ),
        data=DataConfig(seq_length=4096),
        batch=replace(base.batch, global_batch_size=64, lr=1e-4, min_lr=1e-5, lr_warmup_iters=500),
        parallel=ParallelConfig(use_distributed_optimizer=True),
        loop=LoopConfig(train_iters=20_000, save_interval=500, eval_interval=500),
    )


def t2t_1_5b() -> LMConfig:
    """The paper's text-to-token model: 1.5B parameters, text in and codes out."""
    base = lm_1_5b()
    return replace(
        base,
        data=DataConfig(seq_length=4096),
        loop=LoopConfig(train_iters=50_000, save_interval=1000, eval_interval=1000),
    )


_MODEL_1_5B = ModelConfig(
    num_layers=28,
    hidden_size=1536,
    ffn_hidden_size=8960,
    num_attention_heads=12,
    num_query_groups=2,
    max_position_embeddings=8192,
    rotary_base=1_000_000,
)

RECIPES: dict[str, Callable[[], LMConfig]] = {
    "lm-smoke": lm_smoke,
    "lm-debug": lm_debug,
    "lm-0.6b": lm_0_6b,
    "lm-1.5b": lm_1_5b,
    "lm-1.7b": lm_1_7b,
    "lm-9b": lm_9b,
    "sft-smoke": sft_smoke,
    "sft-debug": sft_debug,
    "sft-9b": sft_9b,
    "sft-9b-lora": sft_9b_lora,
    "t2t-smoke": t2t_smoke,
    "t2t-debug": t2t_debug,
    "t2t-1.5b": t2t_1_5b,
}


def _shortened(config: LMConfig) -> LMConfig:
    return replace(
        config,
        batch=replace(config.batch, lr_warmup_iters=2, eval_iters=2),
        loop=replace(config.loop, train_iters=20, log_interval=5),
    )
