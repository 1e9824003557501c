"""On a GPU, every kind of layers, precision and memory saving trains like the plain layers."""

from dataclasses import replace

import pytest
import torch

from megatron_speech.model.lora_config import LoRAConfig
from megatron_speech.model.precision import PrecisionConfig
from megatron_speech.training.installed import installed
from megatron_speech.training.parallel_config import ParallelConfig
from tests.gpu.plain_layers import ENGINE, LOCAL, assert_alike
from tests.training.megatron_world import Run, run

pytestmark = pytest.mark.gpu
LORA = LoRAConfig(lora_rank=4, lora_train_embedding=True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"transformer_impl": "local", "no_cross_entropy_loss_fusion": False},
        {"no_cross_entropy_loss_fusion": True},
        {"cross_entropy_fusion_impl": "te"},
        {"attention_backend": "fused"},
        {"attention_backend": "unfused"},
    ],
)
def test_fused_layers_train_like_plain_ones(changes, weights, plain):
    """Some windows hold two documents: packed sequences on one side, a mask on the other."""
    precision = replace(ENGINE, **changes)
    assert_alike(run(Run(weights=weights, last=4, precision=precision))["steps"], plain, 1e-2)


@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig(recompute_granularity="selective", recompute_modules=("core_attn", "mlp")),
        ParallelConfig(
            recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1
        ),
        ParallelConfig(cpu_offloading_num_layers=2),
        ParallelConfig(offload_modules=("core_attn", "attn_proj")),
    ],
)
def test_saved_memory_changes_no_loss(parallel, weights, monkeypatch):
    monkeypatch.setenv("NVTE_CPU_OFFLOAD_V1", "1")
    expected = run(Run(weights=weights, last=3, precision=ENGINE))["steps"]
    found = run(Run(parallel=parallel, weights=weights, last=3, precision=ENGINE))["steps"]
    assert_alike(found, expected, 1e-3)


def test_adapters_train_on_the_engine_s_layers_as_on_plain_ones(weights):
    """Rows of codes beside them."""
    task = Run(base=weights, lora=LORA, last=4, batch={"lr": 3e-3})
    plain = run(replace(task, precision=LOCAL))["steps"]
    assert_alike(run(replace(task, precision=ENGINE))["steps"], plain, 1e-2)


@pytest.mark.parametrize("moments", ["fp32", "bf16"])
def test_the_precision_aware_optimizer_trains_and_resumes(moments, weights, plain, tmp_path):
    parallel = ParallelConfig(use_distributed_optimizer=True)
    types = {"exp_avg_dtype": moments, "exp_avg_sq_dtype": moments}
    batch = {"use_precision_aware_optimizer": True, **types}
    task = Run(parallel=parallel, precision=ENGINE, batch=batch, weights=weights, last=4)
    whole = run(task)["steps"]
    assert_alike(whole, plain, 1e-2)
    first = run(replace(task, last=2, save=tmp_path / "half"))["steps"]
    rest = run(replace(task, weights=None, resume=tmp_path / "half", first=2))["steps"]
    assert first + rest == whole


def test_transformer_engine_s_loss_keeps_no_fp32_copy_of_the_logits():
    """Peak memory of loss and gradient at 168k tokens: one copy of the logits, overwritten."""
    from megatron.core.extensions.transformer_engine import te_parallel_cross_entropy
    from megatron.core.fusions.fused_cross_entropy import fused_vocab_parallel_cross_entropy

    from megatron_speech.training.megatron.parallel import session

    rows, vocab = 2048, 168_960
    size = rows * vocab * 2  # bytes of bf16 logits
    with session(ParallelConfig()):
        from megatron.core import parallel_state

        group = parallel_state.get_tensor_model_parallel_group()
        labels = torch.randint(0, vocab, (rows, 1), device="cuda")
        peaks, losses = {}, {}
        for name, function in (
            ("te", te_parallel_cross_entropy),
            ("native", fused_vocab_parallel_cross_entropy),
        ):
            torch.manual_seed(0)
            logits = torch.randn(rows, 1, vocab, device="cuda", dtype=torch.bfloat16)
            logits.requires_grad_()
            expected = torch.nn.functional.cross_entropy(logits[:8, 0].float(), labels[:8, 0])
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            loss = function(logits, labels, group)
            losses[name] = loss.flatten()[:8].mean().item()
            loss.sum().backward()
            peaks[name] = torch.cuda.max_memory_allocated() - before
            assert losses[name] == pytest.approx(expected.item(), rel=1e-3)
            del logits, loss
    assert peaks["te"] < 1.5 * size < peaks["native"]


def test_losses_are_those_of_a_cpu(monkeypatch, tmp_path):
    """In fp32, from the same weights, on the same windows."""
    fp32 = PrecisionConfig(transformer_impl="local")
    run(Run(last=0, save=tmp_path / "weights", precision=fp32))
    task = Run(weights=tmp_path / "weights", last=6, precision=fp32)
    found = run(task)["steps"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    installed.cache_clear()
    try:
        assert_alike(found, run(task)["steps"], 1e-4)
    finally:
        installed.cache_clear()


def test_resumed_run_equals_uninterrupted_run(weights, tmp_path):
    whole = run(Run(weights=weights, last=4, precision=ENGINE))
    run(Run(weights=weights, last=2, precision=ENGINE, save=tmp_path / "half"))
    second = run(Run(resume=tmp_path / "half", first=2, last=4, precision=ENGINE))
    for found, expected in zip(second["steps"], whole["steps"][2:], strict=True):
        assert found["lm loss"] == pytest.approx(expected["lm loss"], rel=1e-5)
