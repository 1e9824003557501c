"""Runs that every other on a GPU is compared with."""

import pytest

from tests.gpu.plain_layers import LOCAL
from tests.training.megatron_world import Run, run


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu") / "initial"
    run(Run(last=0, save=folder, precision=LOCAL))
    return folder


@pytest.fixture(scope="module")
def plain(weights):
    """Losses of core's local layers in bf16, nothing fused."""
    return run(Run(weights=weights, last=4, precision=LOCAL))["steps"]
