"""On a GPU, Transformer Engine's layers and packed sequences train like the plain layers."""

import pytest

from tests.training.megatron_world import Run, run

NAMES = ("lm loss", "text loss", "speech loss")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu") / "initial"
    run(Run(last=0, save=folder, bf16=True, transformer_engine=False))
    return folder


def test_transformer_engine_trains_like_the_plain_layers(weights):
    """Some windows hold two documents: packed sequences on one side, a mask on the other."""
    plain = run(Run(weights=weights, bf16=True, transformer_engine=False))["steps"]
    fused = run(Run(weights=weights, bf16=True, transformer_engine=True))["steps"]
    for found, expected in zip(fused, plain, strict=True):
        for name in NAMES:
            assert found[name] == pytest.approx(expected[name], rel=1e-2), name


def test_resumed_run_equals_uninterrupted_run(weights, tmp_path):
    whole = run(Run(weights=weights, last=4, bf16=True))
    run(Run(weights=weights, last=2, bf16=True, save=tmp_path / "half"))
    second = run(Run(resume=tmp_path / "half", first=2, last=4, bf16=True))
    for found, expected in zip(second["steps"], whole["steps"][2:], strict=True):
        assert found["lm loss"] == pytest.approx(expected["lm loss"], rel=1e-5)
