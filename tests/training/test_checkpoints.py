"""Checkpoints: handed from layout to layout, written in the background, damaged, cut off."""

import itertools
import json
import os
import resource
import signal
import warnings
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.distributed.checkpoint import FileSystemReader
from torch.multiprocessing.spawn import ProcessRaisedException

from megatron_speech.errors import CheckpointError
from megatron_speech.model import layers
from megatron_speech.model.precision import PrecisionConfig
from megatron_speech.training.megatron import checkpoint as megatron_checkpoint
from megatron_speech.training.megatron.background_save import BackgroundSave
from megatron_speech.training.megatron.optimizer_state import allocate_state
from megatron_speech.training.megatron.parallel import ParallelConfig, session
from tests.training import megatron_world
from tests.training.megatron_world import CHAINS, Run, run

LOGGED = ("lm loss", "text loss", "speech loss", "grad-norm", "learning-rate")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "initial"
    run(Run(last=0, save=folder))
    return folder


def whole_tensors(directory):
    """Every tensor of a checkpoint, put together from its parts."""
    from megatron.core import dist_checkpointing

    with session(ParallelConfig()):
        stored = dist_checkpointing.load_plain_tensors(str(directory))
    return {name: value for name, value in stored.items() if isinstance(value, torch.Tensor)}


@pytest.fixture(scope="module")
def handed_on(weights, tmp_path_factory):
    """The folders of a run that went through `CHAINS`, in one spawn of four ranks."""
    folder = tmp_path_factory.mktemp("chain")
    torch.multiprocessing.spawn(megatron_world.hand_on, args=(folder, weights), nprocs=4)
    return folder


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.name)
def test_a_run_goes_on_from_layout_to_layout(chain, weights, handed_on):
    folder = handed_on / chain.name
    names = [name for name, *_ in chain.layouts]
    alone = run(replace(chain.alone, weights=weights))["steps"]
    found = [json.loads((folder / f"{name}.json").read_text()) for name in names]
    for step, expected in zip(itertools.chain(*found), alone, strict=True):
        for name in LOGGED:
            assert step[name] == pytest.approx(expected[name], rel=1e-5), name
    for before, after in pairwise(names):
        if chain.batch_of(before) != chain.batch_of(after):
            continue  # stored in other parts; the losses above tell
        written, read = whole_tensors(folder / before), whole_tensors(folder / f"{after}-read")
        assert written.keys() == read.keys()
        assert any("exp_avg_sq" in name for name in written)
        for name, value in written.items():
            assert torch.equal(value, read[name]), (before, after, name)


def test_every_process_writes_its_part(handed_on):
    sizes = [path.stat().st_size for path in (handed_on / "whole" / "dp2").glob("*.distcp")]
    assert len(sizes) == 2
    assert max(sizes) < 2 * min(sizes)


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("sharded", [False, True])
def test_going_back_forgets_the_steps_since(sharded, gathered, weights, tmp_path):
    """A roll-back loads into an optimizer that has state already."""
    parallel = ParallelConfig(use_distributed_optimizer=sharded)
    batch = {"dist_ckpt_optim_fully_reshardable": gathered}
    task = Run(parallel=parallel, batch=batch, weights=weights)
    expected = run(replace(task, last=4))["steps"]
    found = run(replace(task, last=2, save=tmp_path / "two", go_on=4))
    for one, other in zip(found["steps"] + found["again"], expected, strict=True):
        assert [one[name] for name in LOGGED] == [other[name] for name in LOGGED]


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ({"tensor_model_parallel_size": 2}, "--tensor-model-parallel-size 1 only"),
        ({"ddp_bucket_size": 30_000}, "--ddp-bucket-size 20000 only"),
    ],
)
def test_state_that_was_not_gathered_stays_in_its_layout(shape, named, handed_on, tmp_path):
    source = handed_on / "not-gathered" / "dp2-again"
    with pytest.raises(ProcessRaisedException, match=f"with {named}; give that"):
        torch.multiprocessing.spawn(_resume, args=(source, tmp_path / "store", shape), nprocs=2)


def _resume(rank, source, store, shape):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(store), 2), rank=rank, world_size=2)
    shape = {"overlap_grad_reduce": True, "ddp_bucket_size": 20_000, **shape}
    run(Run(parallel=ParallelConfig(**shape, use_distributed_optimizer=True), resume=source))


def test_the_background_writes_the_same_bytes(weights, tmp_path):
    for in_background in (False, True):
        save = tmp_path / str(in_background)
        run(Run(weights=weights, last=1, save=save, in_background=in_background))
    names = sorted(path.name for path in (tmp_path / "True").iterdir())
    assert names == [".metadata", "__0_0.distcp", "metadata.json"]
    one, two = (tmp_path / kind / "__0_0.distcp" for kind in ("False", "True"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("in_background", [False, True])
def test_a_disk_that_takes_no_more_is_said_in_words(in_background, weights, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    task = Run(weights=weights, last=0, save=tmp_path / "full", in_background=in_background)
    try:
        with pytest.raises(CheckpointError, match="MiB are free"):
            run(task)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_writer_that_is_killed_is_an_error(weights, tmp_path, monkeypatch):
    def killed(self, wait):
        (call,) = self._calls.async_calls
        os.kill(call.async_caller.process.pid, signal.SIGKILL)
        return done(self, wait)

    done = BackgroundSave.done
    monkeypatch.setattr(BackgroundSave, "done", killed)
    with warnings.catch_warnings(), pytest.raises(CheckpointError, match="could not be written"):
        run(Run(weights=weights, last=0, save=tmp_path / "save", in_background=True))
    assert not (tmp_path / "save" / "metadata.json").exists()


DAMAGE = {
    "cut short": (lambda data, _: data[:-100], "cut short: .* bytes instead of"),
    "one bit": (lambda data, at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "damaged"),
    "zeros": (lambda data, at: data[:at] + bytes(512) + data[at + 512 :], "damaged"),
    "another file": (lambda data, _: b"x" * len(data), "damaged"),
    "empty": (lambda *_: b"", "cut short"),
    "gone": (None, "is missing"),
}


def middle_of_a_tensor(directory):
    """A place in the file that holds a number of the largest tensor."""
    stored = FileSystemReader(directory).read_metadata().storage_data.values()
    largest = max(stored, key=lambda info: info.length)
    return largest.offset + largest.length // 2


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_named(kind, weights, tmp_path):
    change, message = DAMAGE[kind]
    broken = tmp_path / "iter_0000004"
    broken.mkdir()
    for path in weights.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    run(Run(weights=broken, last=0))
    path = broken / "__0_0.distcp"
    content = path.read_bytes()
    path.unlink()
    if change is not None:
        path.write_bytes(change(content, middle_of_a_tensor(broken)))
    with pytest.raises(CheckpointError, match=rf"{path}.* {message}.*restore the folder"):
        run(Run(weights=broken, last=0))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("distributed", [False, True])
def test_a_checkpoint_from_before_the_first_step_changes_nothing(distributed, bf16, tmp_path):
    fresh = Run(
        parallel=ParallelConfig(use_distributed_optimizer=distributed),
        precision=PrecisionConfig(bf16=bf16),
        last=3,
    )
    expected = run(fresh)["steps"]
    saved = tmp_path / "saved"
    again = run(replace(fresh, last=0, save=saved, go_on=3))["again"]
    assert run(replace(fresh, resume=saved))["steps"] == expected
    assert again == expected


class StepsByGroup(torch.optim.AdamW):
    """Counts its steps in the groups, as Transformer Engine's FusedAdam does."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1


@pytest.mark.parametrize("kind", [torch.optim.AdamW, StepsByGroup])
def test_state_is_allocated_without_a_step(kind):
    weights = torch.nn.Parameter(torch.randn(5))
    before = weights.detach().clone()
    adam = kind([weights], lr=0.5, weight_decay=0.3)
    allocate_state(SimpleNamespace(optimizer=adam))
    assert torch.equal(weights, before)
    (state,) = adam.state.values()
    assert int(state["step"]) == 0
    assert not state["exp_avg"].any()
    assert adam.param_groups[0]["lr"] == 0.5
    assert adam.param_groups[0].get("step", 0) == 0


class NormWithState(layers.RMSNorm):
    """Keeps extra state, as Transformer Engine's does."""

    def get_extra_state(self):
        return torch.zeros(0, dtype=torch.uint8)

    def set_extra_state(self, state):
        assert state.dtype == torch.uint8


@pytest.mark.parametrize(
    ("saves", "loads"), list(itertools.permutations([layers.RMSNorm, NormWithState]))
)
def test_layers_with_and_without_extra_state_read_each_other(saves, loads, tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "RMSNorm", saves)
    run(Run(last=2, save=tmp_path / "saved"))
    expected = run(Run(resume=tmp_path / "saved", first=2, last=4))["steps"]
    monkeypatch.setattr(layers, "RMSNorm", loads)
    assert run(Run(resume=tmp_path / "saved", first=2, last=4))["steps"] == expected
    run(Run(weights=tmp_path / "saved", last=0))


def test_a_checkpoint_without_optimizer_state_is_said_in_a_line(tmp_path, monkeypatch):
    """Earlier versions saved such before the first step."""
    weights = tmp_path / "weights"
    monkeypatch.setattr(megatron_checkpoint, "allocate_state", lambda optimizer: None)
    run(Run(last=0, save=weights))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="does not hold what this model") as said:
        run(Run(resume=weights, last=0))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("name", [".metadata", "metadata.json"])
def test_a_damaged_index_is_named(name, weights, tmp_path):
    for path in weights.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        run(Run(weights=tmp_path, last=0))
