"""Transformer Engine's own layers, built on a machine without a GPU: needs its wheels installed.

They say no to a CPU, so that torch is made to say yes; nothing is computed by them.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from megatron_speech.model import gpt
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.model.precision import PrecisionConfig
from megatron_speech.training.megatron import checkpoint as megatron_checkpoint
from megatron_speech.training.megatron.parallel import session
from megatron_speech.training.parallel_config import ParallelConfig
from tests.model.engine import engine_error
from tests.training.megatron_world import BATCH, IDENTITY, MODEL, VOCAB

if missing := engine_error():
    pytest.skip(missing, allow_module_level=True)
ONE = ParallelConfig()


@pytest.fixture
def options(monkeypatch):
    """Options that choose the engine's layers; call it inside a session."""

    def choose(precision):
        found = BuildOptions(padded_vocab_size=VOCAB).implementation
        chosen = replace(found, transformer_engine=True, gradient_accumulation="Transformer Engine")
        monkeypatch.setattr(BuildOptions, "implementation", chosen)
        device = SimpleNamespace(major=9, minor=0, multi_processor_count=132, name="H100")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: device)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
        return BuildOptions(padded_vocab_size=VOCAB, precision=precision)

    return choose


@pytest.mark.parametrize("qk_layernorm", [False, True])
def test_linear_layers_accumulate_their_gradients(qk_layernorm, options):
    with session(ONE, seed=7):
        made = options(PrecisionConfig(bf16=True))
        (chunk,) = build_model(replace(MODEL, qk_layernorm=qk_layernorm), ONE, made)
    linear = [module for module in chunk.modules() if hasattr(module, "fuse_wgrad_accumulation")]
    assert len(linear) == 4 * MODEL.num_layers
    assert all(module.fuse_wgrad_accumulation for module in linear)


@pytest.mark.parametrize("recipe", ["delayed", "tensorwise", "blockwise"])
@pytest.mark.parametrize("loss", ["native", "te"])
def test_core_takes_the_settings_of_fp8(recipe, loss, options):
    precision = PrecisionConfig(
        bf16=True, fp8_format="hybrid", fp8_recipe=recipe, cross_entropy_fusion_impl=loss
    )
    with session(ONE, seed=7):
        config = gpt.transformer_config(MODEL, ONE, options(precision))
    assert (config.fp8, config.fp8_recipe) == ("hybrid", recipe)


def test_core_takes_graphs_userbuffers_and_fp8_weights(options):
    precision = PrecisionConfig(
        bf16=True,
        fp8_format="hybrid",
        fp8_param_gather=True,
        cuda_graph_impl="local",
        cuda_graph_modules=("attn", "mlp"),
    )
    divided = ParallelConfig(
        tensor_model_parallel_size=2,
        sequence_parallel=True,
        tp_comm_overlap=True,
        use_distributed_optimizer=True,
    )
    with session(ONE, seed=7):
        config = gpt.transformer_config(MODEL, divided, options(precision))
    assert config.fp8_param
    assert config.tp_comm_overlap
    assert [module.name for module in config.cuda_graph_modules] == ["attn", "mlp"]


class Bare:
    """As much of a trainer as a checkpoint of weights needs; the optimizer would need a GPU."""

    parallel, config, identity, consumed_samples = ONE, BATCH, IDENTITY, 0
    scheduler = SimpleNamespace(state_dict=dict)
    optimizer = SimpleNamespace(
        chained_optimizers=[],
        sharded_state_dict=lambda *_, **__: {"state": {}},
        reload_model_params=lambda: None,
    )

    def __init__(self, chunk):
        ddp_config = SimpleNamespace(bucket_size=None)
        self.chunks = [SimpleNamespace(module=chunk, ddp_config=ddp_config)]

    def data_position(self):
        return {}


def test_engine_and_local_layers_read_each_other(options, tmp_path):
    with session(ONE, seed=7):
        (local,) = build_model(MODEL, ONE, BuildOptions(padded_vocab_size=VOCAB))
        tmp_path.joinpath("local").mkdir()
        megatron_checkpoint.save(Bare(local), tmp_path / "local")
        weights = [p.detach().clone() for p in local.parameters()]
        (engine,) = build_model(MODEL, ONE, options(PrecisionConfig()))
        megatron_checkpoint.start_from(Bare(engine), tmp_path / "local")
        tmp_path.joinpath("engine").mkdir()
        megatron_checkpoint.save(Bare(engine), tmp_path / "engine")
        for parameter in local.parameters():
            parameter.data.zero_()
        megatron_checkpoint.start_from(Bare(local), tmp_path / "engine")
    for found, expected in zip(local.parameters(), weights, strict=True):
        assert torch.equal(found, expected)
