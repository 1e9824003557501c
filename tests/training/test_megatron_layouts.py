"""Every layout trains like one process, from one checkpoint, with and without the sharded
optimizer; and a run that was interrupted goes on as if it had not been."""

import json
import resource
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing
from transformers import LlamaForCausalLM

from megatron_speech.errors import CheckpointError
from megatron_speech.model.families import get_family
from megatron_speech.model.hf import checkpoint_tensors
from megatron_speech.training.parallel import ParallelConfig, session
from tests.training import megatron_world
from tests.training.megatron_world import MODEL, VOCAB, Run, Windows, cases, run

NAMES = ("lm loss", "text loss", "speech loss", "grad-norm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layouts")


@pytest.fixture(scope="module")
def weights(folder):
    run(Run(last=0, save=folder / "initial"))
    return folder / "initial"


@pytest.fixture(scope="module")
def reference(weights):
    """Six steps in one process without the distributed optimizer."""
    return run(Run(weights=weights, last=6))


@pytest.fixture(scope="module")
def results(folder, weights):
    """All layouts, in one spawn of four ranks."""
    torch.multiprocessing.spawn(megatron_world.main, args=(folder, weights), nprocs=4)
    return {case.key: json.loads((folder / f"{case.key}.json").read_text()) for case in cases()}


@pytest.mark.parametrize("key", [case.key for case in cases()])
def test_layout_trains_like_one_process(key, results, reference):
    for found, expected in zip(results[key]["steps"], reference["steps"], strict=False):
        for name in NAMES:
            assert found[name] == pytest.approx(expected[name], rel=1e-5), name


@pytest.mark.parametrize("sharded", [False, True])
def test_checkpoint_of_tp2_pp2_continues_in_one_process(sharded, folder, results, reference):
    key = f"tp2-pp2-{'sharded' if sharded else 'whole'}"
    parallel = ParallelConfig(use_distributed_optimizer=sharded)
    continued = run(Run(parallel=parallel, resume=folder / key, first=4, last=6))
    for found, expected in zip(continued["steps"], reference["steps"][4:], strict=True):
        for name in (*NAMES, "learning-rate"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5), name


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
    expected = run(Run(parallel=parallel, resume=directory, first=4, last=4))["logits"]
    vocab = SimpleNamespace(size=VOCAB - 8, padded_size=VOCAB)
    with session(ParallelConfig()):
        tensors = dict(checkpoint_tensors(directory, MODEL, vocab))
    model = LlamaForCausalLM(get_family(MODEL).config(MODEL, vocab.size))
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


def test_bf16_follows_fp32(weights, reference):
    steps = run(Run(weights=weights, last=3, bf16=True))["steps"]
    for found, expected in zip(steps, reference["steps"], strict=False):
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
