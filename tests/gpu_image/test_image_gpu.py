"""What the Docker image has, on a GPU of Hopper's kind or newer: flash-attn, apex, FP8."""

from dataclasses import replace

import pytest

from megatron_speech.model.precision import choose
from megatron_speech.training.installed import installed
from tests.gpu.plain_layers import ENGINE, LOCAL, assert_alike
from tests.training.megatron_world import Run, run

pytestmark = pytest.mark.gpu_image

FP8 = replace(ENGINE, transformer_impl="transformer_engine", fp8_format="hybrid")


def test_flash_attention_trains_like_plain_layers(weights, plain):
    precision = replace(ENGINE, attention_backend="flash")
    assert_alike(run(Run(weights=weights, last=4, precision=precision))["steps"], plain, 1e-2)


def test_gradients_accumulated_by_apex(weights, plain):
    assert choose(LOCAL, installed()).gradient_accumulation == "apex"
    assert_alike(run(Run(weights=weights, last=4, precision=LOCAL))["steps"], plain, 1e-2)


@pytest.mark.parametrize("recipe", ["delayed", "tensorwise", "blockwise"])
def test_fp8_follows_bf16(recipe, weights, plain):
    steps = run(Run(weights=weights, last=4, precision=replace(FP8, fp8_recipe=recipe)))["steps"]
    assert_alike(steps, plain, 5e-2)
    assert steps != plain


def test_first_and_last_layers_in_bf16_come_closer(weights, plain):
    tensorwise = replace(FP8, fp8_recipe="tensorwise")
    all_fp8 = run(Run(weights=weights, last=1, precision=tensorwise))["steps"][0]
    kept = replace(
        tensorwise,
        first_last_layers_bf16=True,
        num_layers_at_start_in_bf16=2,
        num_layers_at_end_in_bf16=2,
    )  # all four layers
    bf16 = run(Run(weights=weights, last=1, precision=kept))["steps"][0]
    assert bf16["lm loss"] == pytest.approx(plain[0]["lm loss"], rel=2e-3)
    assert bf16["lm loss"] != all_fp8["lm loss"]
