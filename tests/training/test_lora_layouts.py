"""Adapters train alike under every layout; what is frozen stays, and is not saved."""

from dataclasses import replace

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from megatron_speech.errors import CheckpointError
from megatron_speech.training.megatron.parallel import ParallelConfig
from tests.training.lora_world import BATCH, LORA, STEPS, TIED, UNTIED, cases, spawn
from tests.training.megatron_world import MODEL, Run, run

NAMES = ("lm loss", "text loss", "speech loss", "grad-norm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random bases, tied and untied."""
    made = tmp_path_factory.mktemp("lora")
    for name, model in (("tied", TIED), ("untied", UNTIED)):
        run(Run(model=model, last=0, save=made / f"base-{name}"))
    return made


@pytest.fixture(scope="module")
def results(folder):
    """All layouts, in one spawn of four ranks."""
    return spawn(folder)


def alone(folder, tied, **settings):
    base = folder / f"base-{'tied' if tied else 'untied'}"
    model = TIED if tied else UNTIED
    return Run(
        **{"model": model, "lora": LORA, "base": base, "batch": BATCH, "last": STEPS} | settings
    )


@pytest.fixture(scope="module")
def references(folder):
    """Steps in one process, by whether the model is tied."""
    return {tied: run(alone(folder, tied)) for tied in (True, False)}


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.key)
def test_a_layout_trains_like_one_process(case, results, references):
    """Losses and gradient norm, whole and by part of the model, of every step."""
    expected, found = references[case.tied], results[case.key]
    names = {name for name in expected["steps"][0] if name.startswith("grad-norm ")} | {*NAMES}
    assert {"grad-norm embedding speech", "grad-norm attention", "grad-norm mlp"} <= names
    assert "grad-norm norm" not in names  # frozen
    for name in names:
        for one, other in zip(found["steps"], expected["steps"], strict=True):
            assert one[name] == pytest.approx(other[name], rel=1e-5), name
    losses = [step["lm loss"] for step in expected["steps"]]
    assert abs(losses[-1] - losses[0]) > 1e-3  # and something is learned


@pytest.mark.parametrize(("layout", "tied"), [("tp2-pp2-sp", True), ("tp4", False)])
def test_adapters_are_read_under_another_layout(layout, tied, folder, results, references):
    directory = folder / f"{layout}-{'tied' if tied else 'untied'}"
    read = run(alone(folder, tied, resume=directory, first=STEPS))
    for name, value in results[directory.name]["validation"].items():
        assert read["validation"][name] == pytest.approx(value, rel=1e-5)
    assert torch.allclose(read["weights"], references[tied]["weights"], atol=1e-5)


@pytest.mark.parametrize("sharded", [True, False])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(sharded, folder, tmp_path):
    """Dropout included."""
    task = alone(
        folder,
        tied=True,
        lora=replace(LORA, lora_dropout=0.3),
        parallel=ParallelConfig(use_distributed_optimizer=sharded),
    )
    whole = run(replace(task, last=6))
    first = run(replace(task, last=3, save=tmp_path / "half"))
    second = run(replace(task, resume=tmp_path / "half", first=3, last=6))
    assert first["steps"] + second["steps"] == whole["steps"]
    assert torch.equal(second["weights"], whole["weights"])
    assert whole["steps"][5] != run(replace(task, lora=LORA, last=6))["steps"][5]


def test_checkpoints_hold_what_is_trained_alone(folder, references, tmp_path):
    run(alone(folder, tied=False, last=2, save=tmp_path / "save"))
    stored = FileSystemReader(tmp_path / "save").read_metadata().state_dict_metadata
    weights = {
        name: entry.size
        for name, entry in stored.items()
        if hasattr(entry, "size") and not name.startswith("optimizer.")
    }
    linears = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1")
    linears += ("mlp.linear_fc2",)
    expected = {f"decoder.layers.{name}_lora.{part}" for name in linears for part in "ab"}
    assert weights.keys() == expected | {"embedding_rows.weight", "output_rows.weight"}
    elements = sum(size.numel() for size in weights.values())
    rows = 2 * (120 - 72) * MODEL.hidden_size
    assert elements == LORA.num_parameters(UNTIED) + rows
    moments = {name for name in stored if name.startswith("optimizer.state.exp_avg.")}
    assert {name.removeprefix("optimizer.state.exp_avg.") for name in moments} == weights.keys()


def test_other_settings_are_no_continuation(folder, tmp_path):
    run(alone(folder, tied=True, last=1, save=tmp_path / "save"))
    other = replace(LORA, lora_rank=8)
    with pytest.raises(CheckpointError, match="does not hold what this model"):
        run(alone(folder, tied=True, lora=other, resume=tmp_path / "save"))


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_layers_computed_again_give_adapters_their_gradients(recompute, folder):
    """Their input wants no gradient where the embedding is frozen."""
    settings = {"recompute_granularity": recompute}
    if recompute == "full":
        settings |= {"recompute_method": "uniform", "recompute_num_layers": 1}
    else:
        settings["recompute_modules"] = ("mlp", "core_attn")
    task = alone(folder, tied=True, last=3, lora=replace(LORA, lora_train_embedding=False))
    again = replace(task, parallel=ParallelConfig(**settings))
    assert run(again)["steps"] == run(task)["steps"]
