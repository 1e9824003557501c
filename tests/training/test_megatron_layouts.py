"""Every layout trains like one process, from one checkpoint, with and without the sharded
optimizer; and a run that was interrupted goes on as if it had not been."""

import resource
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForCausalLM

from megatron_speech.errors import CheckpointError
from megatron_speech.model.hf import checkpoint_tensors
from megatron_speech.model.hf_config import config_from_model
from megatron_speech.training.megatron.parallel import ParallelConfig, session
from tests.training import megatron_world
from tests.training.megatron_world import (
    MODEL,
    STEPS,
    VOCAB,
    Run,
    Windows,
    cases,
    deviation,
    fast_cases,
    run,
    spawn,
)

NAMES = ("lm loss", "text loss", "speech loss", "grad-norm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layouts")


@pytest.fixture(scope="module")
def weights(folder):
    run(Run(last=0, save=folder / "initial"))
    return folder / "initial"


@pytest.fixture(scope="module")
def results(folder, weights):
    """All layouts, in one spawn of four ranks."""
    return spawn(folder, weights, fast_cases())


@pytest.fixture(scope="module")
def reference(results):
    """Steps in one process without the distributed optimizer."""
    return results["1-whole"]


@pytest.mark.parametrize("case", fast_cases(), ids=lambda case: case.key)
def test_layout_trains_like_one_process(case, results):
    """Losses and gradient norm of every one of 20 steps."""
    for name in NAMES:
        found = deviation(results[case.key], results[case.reference], name)
        assert found <= (1e-2 if case.bf16 else 1e-5), name


@pytest.mark.parametrize("key", [case.key for case in cases()])
def test_gradient_norms_by_group_are_those_of_one_process(key, results, reference):
    expected = reference["steps"][0]
    groups = {name for name in expected if name.startswith("grad-norm ")}
    assert groups == {
        *("grad-norm embedding text", "grad-norm embedding speech"),
        *("grad-norm attention", "grad-norm mlp", "grad-norm norm"),
    }
    step = results[key]["steps"][0]
    for name in groups:
        assert step[name] == pytest.approx(expected[name], rel=1e-5), name
    whole = sum(step[name] ** 2 for name in groups) ** 0.5
    assert whole == pytest.approx(step["grad-norm"], rel=1e-5)


@pytest.mark.parametrize("sharded", [False, True])
def test_checkpoint_of_tp2_pp2_continues_in_one_process(sharded, folder, results, weights):
    key = f"tp2-pp2-{'sharded' if sharded else 'whole'}"
    parallel = ParallelConfig(use_distributed_optimizer=sharded)
    expected = run(Run(parallel=parallel, weights=weights, last=STEPS + 2))["steps"][STEPS:]
    continued = run(Run(parallel=parallel, resume=folder / key, first=STEPS, last=STEPS + 2))
    for found, step in zip(continued["steps"], expected, strict=True):
        for name in (*NAMES, "learning-rate"):
            assert found[name] == pytest.approx(step[name], rel=1e-5), name


def test_weights_saved_while_parameters_are_gathered_late_are_the_new_ones(folder, results):
    """Both hold the same run: one gathers parameters in the next forward pass, one does not."""
    late, plain = (
        run(Run(weights=folder / f"dp2-overlap-{kind}", last=0)) for kind in ("sharded", "whole")
    )
    assert torch.allclose(late["weights"], plain["weights"], atol=1e-5)


@pytest.mark.parametrize("sharded", [False, True])
def test_resumed_run_equals_uninterrupted_bit_for_bit(sharded, folder, weights):
    parallel = ParallelConfig(use_distributed_optimizer=sharded)
    whole = run(Run(parallel=parallel, weights=weights, last=6))
    half = folder / f"half-{sharded}"
    first = run(Run(parallel=parallel, weights=weights, last=3, save=half))
    second = run(Run(parallel=parallel, resume=half, first=3, last=6))
    assert first["steps"] + second["steps"] == whole["steps"]
    assert torch.equal(second["weights"], whole["weights"])
    assert not torch.equal(first["weights"], whole["weights"])


@pytest.mark.parametrize("sharded", [False, True])
def test_export_of_a_tp2_pp2_checkpoint_gives_the_same_logits(sharded, folder, results):
    directory = folder / f"tp2-pp2-{'sharded' if sharded else 'whole'}"
    parallel = ParallelConfig(use_distributed_optimizer=sharded)
    expected = run(Run(parallel=parallel, resume=directory, first=STEPS, last=STEPS))["logits"]
    vocab = SimpleNamespace(size=VOCAB - 8, embedding_rows=VOCAB - 8, padded_size=VOCAB)
    with session(ParallelConfig()):
        outputs = checkpoint_tensors(directory, MODEL, vocab)
        tensors = {output.name: output.read() for output in outputs}
    model = LlamaForCausalLM(config_from_model(MODEL, vocab.size))
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    tokens = Windows()[0]["tokens"][None] % vocab.size
    with torch.no_grad():
        logits = model(tokens).logits
    assert torch.allclose(logits, expected[..., : vocab.size], atol=1e-4)


def test_losses_are_token_means_by_modality(reference):
    for step in reference["steps"]:
        low, high = sorted([step["text loss"], step["speech loss"]])
        assert low <= step["lm loss"] <= high
    assert reference["validation"].keys() == {"lm loss", "text loss", "speech loss"}


def test_bf16_follows_fp32(results):
    for found, expected in zip(
        results["1-whole-bf16"]["steps"], results["1-whole"]["steps"], strict=True
    ):
        assert found["lm loss"] == pytest.approx(expected["lm loss"], rel=1e-2)
        assert found["lm loss"] != expected["lm loss"]


def test_checkpoint_of_the_other_optimizer_is_refused(folder, weights):
    with pytest.raises(CheckpointError, match="without --use-distributed-optimizer"):
        run(Run(parallel=ParallelConfig(use_distributed_optimizer=True), resume=weights, last=0))


def test_checkpoint_of_another_model_is_refused(weights, monkeypatch):
    monkeypatch.setattr(megatron_world, "IDENTITY", {"hidden_size": 128, "vocab": "tiny"})
    with pytest.raises(CheckpointError, match="hidden_size is 64 there and 128 here"):
        run(Run(resume=weights, last=0))


def test_disk_that_takes_no_more_is_said_in_words(weights, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(CheckpointError, match="MiB are free"):
            run(Run(weights=weights, last=0, save=tmp_path / "full"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_incomplete_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no whole torch_dist checkpoint"):
        run(Run(resume=tmp_path, last=0))
