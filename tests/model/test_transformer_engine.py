"""Transformer Engine's own layers, built on a machine without a GPU: needs its wheels installed.

They say no to a CPU, so that torch is made to say yes; nothing is computed by them.
"""

from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from megatron_speech.model import gpt
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.model.lora import add_lora
from megatron_speech.model.lora_config import LoRAConfig
from megatron_speech.model.precision import PrecisionConfig
from megatron_speech.training.batch_config import BatchConfig
from megatron_speech.training.megatron import checkpoint as megatron_checkpoint
from megatron_speech.training.megatron.optimizer import build_optimizer
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


def test_adapters_go_on_the_engine_s_layers(options, monkeypatch):
    """The same as on local ones; its fused norm is applied before them."""
    lora, names = LoRAConfig(lora_rank=4), []
    with session(ONE, seed=7):
        (local,) = build_model(MODEL, ONE, BuildOptions(padded_vocab_size=VOCAB))
        (engine,) = build_model(MODEL, ONE, options(PrecisionConfig()))
        engine.load_state_dict(local.state_dict(), strict=False)
        for chunk in (local, engine):
            add_lora([chunk], MODEL, lora, None, seed=1)
            names.append({n: p.shape for n, p in chunk.named_parameters() if p.requires_grad})
        assert names[0] == names[1]
        assert not any(getattr(m, "fuse_wgrad_accumulation", False) for m in engine.modules())
        layer, plain = engine.decoder.layers[0], local.decoder.layers[0]
        linear, adapter = layer.self_attention.linear_qkv, layer.self_attention.linear_qkv_lora
        with torch.no_grad():
            linear.layer_norm_weight.normal_()
            plain.input_layernorm.weight.copy_(linear.layer_norm_weight)
            for one in (adapter, plain.self_attention.linear_qkv_lora):
                one.b.fill_(0.1)

        def computed(module, x, **_):  # as the engine's kernel, which needs a GPU
            normed = F.rms_norm(x, (x.size(-1),), module.layer_norm_weight, module.eps)
            return F.linear(normed, module.weight)

        monkeypatch.setattr(type(linear).__mro__[1], "forward", computed)
        x = torch.randn(8, 1, MODEL.hidden_size)
        found = linear(x)[0]
        expected = plain.self_attention.linear_qkv(plain.input_layernorm(x))[0]
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("moments", ["bf16", "fp8"])
def test_core_takes_the_types_of_the_optimizer(moments):
    batch = BatchConfig(
        use_precision_aware_optimizer=True,
        exp_avg_dtype=moments,
        exp_avg_sq_dtype=moments,
    )
    made = []
    parallel = ParallelConfig(use_distributed_optimizer=True)
    chunk = SimpleNamespace(
        config=SimpleNamespace(bf16=True, fp8=None, params_dtype=torch.bfloat16)
    )
    told = SimpleNamespace(param_groups=[])

    def make(config, _):
        made.append(config)
        return told

    with mock.patch("megatron.core.optimizer.get_megatron_optimizer", make):
        assert build_optimizer([chunk], batch, parallel) is told
    (config,) = made
    assert config.use_precision_aware_optimizer_no_fp8_or_ds_fp8
    assert config.exp_avg_dtype == {"bf16": torch.bfloat16, "fp8": torch.uint8}[moments]


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
