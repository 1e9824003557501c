"""Which layers a machine gets: one function decides, from what is installed."""

from dataclasses import replace

import pytest

from megatron_speech.model.config import ModelConfig
from megatron_speech.model.gpt import BuildOptions, transformer_config
from megatron_speech.model.precision import PrecisionConfig, choose
from megatron_speech.training.installed import Installed, installed
from megatron_speech.training.parallel_config import ParallelConfig

CPU = Installed()
BARE = Installed(gpu="NVIDIA H100", compute_capability=(9, 0))
FULL = replace(BARE, transformer_engine="2.20.2", flash_attention="2.8.3", apex=True)
BF16 = PrecisionConfig(bf16=True)


@pytest.mark.parametrize(
    ("precision", "here", "line"),
    [
        (
            BF16, CPU,
            "layers: local; attention: torch's scaled_dot_product_attention; RMSNorm: torch; "
            "fused: nothing",
        ),
        (
            BF16, BARE,
            "layers: local; attention: torch's scaled_dot_product_attention; RMSNorm: torch; "
            "fused: SwiGLU, cross-entropy (native)",
        ),
        (
            BF16, FULL,
            "layers: Transformer Engine; attention: Transformer Engine 2.20.2 (auto, flash-attn "
            "2.8.3); RMSNorm: Transformer Engine; fused: RoPE, SwiGLU, cross-entropy (native), "
            "gradient accumulation (apex)",
        ),
        (
            replace(BF16, attention_backend="fused", cross_entropy_fusion_impl="te"),
            replace(FULL, flash_attention=None, apex=False),
            "layers: Transformer Engine; attention: Transformer Engine 2.20.2 (fused, no "
            "flash-attn); RMSNorm: Transformer Engine; fused: RoPE, SwiGLU, cross-entropy (te), "
            "gradient accumulation (Transformer Engine)",
        ),
        (
            replace(BF16, transformer_impl="local", no_cross_entropy_loss_fusion=True), FULL,
            "layers: local; attention: torch's scaled_dot_product_attention; RMSNorm: torch; "
            "fused: SwiGLU, gradient accumulation (apex)",
        ),
    ],
)  # fmt: skip
def test_the_log_says_what_was_chosen(precision, here, line):
    assert choose(precision, here).describe() == line


@pytest.mark.parametrize(
    ("here", "changes", "rows", "loss"),
    [
        (FULL, {}, 168_960, "te"),
        (FULL, {}, 65_536, "te"),
        (FULL, {}, 65_408, "native"),
        (BARE, {}, 168_960, "native"),
        (FULL, {"transformer_impl": "local"}, 168_960, "native"),
        (FULL, {"cross_entropy_fusion_impl": "native"}, 168_960, "native"),
        (FULL, {"cross_entropy_fusion_impl": "te"}, 1_024, "te"),
        (FULL, {"no_cross_entropy_loss_fusion": True}, 168_960, None),
        (CPU, {}, 168_960, None),
    ],
)
def test_large_vocabularies_take_the_loss_that_copies_no_logits(here, changes, rows, loss):
    assert choose(replace(BF16, **changes), here, rows).cross_entropy == loss


def test_fp32_takes_no_kernel_that_rounds_gradients_to_bf16():
    chosen = choose(PrecisionConfig(), FULL)
    assert chosen.transformer_engine
    assert chosen.cross_entropy is None
    assert chosen.gradient_accumulation is None


def test_transformer_engine_without_a_gpu_is_not_taken():
    assert not choose(BF16, replace(FULL, gpu=None)).transformer_engine


def test_what_is_found_here_is_what_models_are_built_with():
    here = installed()
    options = BuildOptions(padded_vocab_size=64)
    assert options.implementation == choose(PrecisionConfig(), here)
    config = transformer_config(ModelConfig(), ParallelConfig(), options)
    assert config.apply_rope_fusion == options.implementation.transformer_engine
    assert config.fp8 is None
