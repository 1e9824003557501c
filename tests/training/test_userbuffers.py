"""What only a GPU uses is set up and taken down around a run: userbuffers, states for graphs."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from megatron.core.tensor_parallel import random as core_random

from megatron_speech.model.precision import PrecisionConfig
from megatron_speech.training.megatron import parallel
from megatron_speech.training.megatron.parallel import ParallelConfig, session, userbuffers

DIVIDED = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True, tp_comm_overlap=True)


@pytest.fixture
def calls(monkeypatch):
    """What is asked of a Transformer Engine that is not there."""
    found = []
    base = SimpleNamespace(
        UserBufferQuantizationMode=SimpleNamespace(FP8="in fp8", NONE="as they are"),
        initialize_ub=lambda **settings: found.append(settings),
        destroy_ub=lambda: found.append("destroyed"),
    )
    engine = ModuleType("transformer_engine.pytorch")
    engine.module = SimpleNamespace(base=base)
    monkeypatch.setitem(sys.modules, "transformer_engine", ModuleType("transformer_engine"))
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", engine)
    return found


@pytest.mark.parametrize(
    ("changes", "modes"),
    [
        ({}, ["as they are"]),
        ({"fp8_format": "hybrid"}, ["in fp8"]),
        ({"fp8_format": "hybrid", "first_last_layers_bf16": True}, ["in fp8", "as they are"]),
    ],
)
def test_userbuffers_live_as_long_as_the_run(calls, changes, modes):
    formats = PrecisionConfig(bf16=True, **changes).product_formats
    with userbuffers(DIVIDED, (8192, 4096), formats):
        (asked,) = calls
    assert (asked["shape"], asked["tp_size"]) == ([8192, 4096], 2)
    assert asked["quantization_modes"] == modes
    assert calls[1:] == ["destroyed"]


def test_without_the_flag_nothing_is_asked(calls):
    with userbuffers(ParallelConfig(), (8192, 4096), ("bf16",)):
        pass
    assert calls == []


@pytest.mark.parametrize("graphs", [False, True])
def test_random_states_are_where_graphs_can_read_them(graphs, monkeypatch):
    asked = []
    real = core_random.model_parallel_cuda_manual_seed

    def seed(value, *, use_cudagraphable_rng, **settings):
        asked.append(use_cudagraphable_rng)
        real(value, **settings)

    monkeypatch.setattr("megatron.core.tensor_parallel.model_parallel_cuda_manual_seed", seed)
    with session(ParallelConfig(), cuda_graphs=graphs):
        pass
    assert asked == [graphs]


def test_states_of_generators_are_kept_as_tensors(monkeypatch):
    """Graphs need generators, which no checkpoint can hold."""
    with session(ParallelConfig()):
        tracker = core_random.get_cuda_rng_tracker()
        generator = torch.Generator().manual_seed(5)
        monkeypatch.setattr(tracker, "states_", {"some": generator})
        kept = parallel.random_state()
        assert torch.equal(kept["tracker"]["some"], generator.get_state())
        asked = []

        def convert(state, to_graphable=False):
            asked.append(to_graphable)
            return state

        monkeypatch.setattr(core_random, "convert_cuda_rng_state", convert)
        monkeypatch.setattr(tracker, "use_cudagraphable_rng", True)
        parallel.set_random_state(kept)
        assert asked == [True]
