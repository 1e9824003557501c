"""Losses of core's plain layers, which everything else on a GPU is compared with."""

import pytest

from megatron_speech.model.precision import PrecisionConfig
from tests.gpu.device import REHEARSED

NAMES = ("lm loss", "text loss", "speech loss")
LOCAL = PrecisionConfig(bf16=True, transformer_impl="local", no_cross_entropy_loss_fusion=True)
ENGINE = PrecisionConfig(bf16=True, transformer_impl="local" if REHEARSED else "transformer_engine")


def assert_alike(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        for name in NAMES:
            assert one[name] == pytest.approx(other[name], rel=tolerance), name
