"""What plans know of recomputed blocks, CUDA graphs, userbuffers and weights in FP8."""

from dataclasses import replace

import pytest

from megatron_speech.cluster.layouts import Limits, PinConfig, all_layouts, pretended
from megatron_speech.cluster.memory import Workload, fullest_memory
from megatron_speech.model.precision import PrecisionConfig, choose
from megatron_speech.recipes.lm import RECIPES
from megatron_speech.training.devices import GPUS
from megatron_speech.training.parallel_config import ParallelConfig

H100 = GPUS["H100"]
HERE = pretended("H100", H100)
RUN = RECIPES["lm-9b"]()
VOCAB = 168_960
DIVIDED = ParallelConfig(
    tensor_model_parallel_size=2, sequence_parallel=True, use_distributed_optimizer=True
)


def workload(**precision) -> Workload:
    chosen = PrecisionConfig(bf16=True, **precision)
    return Workload(
        model=RUN.model,
        padded_vocab_size=VOCAB,
        seq_length=8192,
        global_batch_size=512,
        precision=chosen,
        implementation=choose(chosen, HERE, VOCAB),
    )


def layouts(gib: float, recompute: str):
    limits = Limits(gpu=H100, gpus_per_node=8, memory_bytes=gib * 2**30, tflops=400)
    pins = PinConfig(
        tensor_model_parallel_size=2,
        pipeline_model_parallel_size=1,
        context_parallel_size=1,
        micro_batch_size=1,
        recompute=recompute,
    )
    return all_layouts(RUN, workload(), HERE, 64, limits, pins)


def test_as_few_layers_are_computed_again_as_it_takes():
    (none,), (full,) = layouts(80, "none"), layouts(80, "full")
    between = (none.memory.peak + full.memory.peak) / 2 / 2**30
    (block,) = layouts(between, "block")
    layers = block.parallel.recompute_num_layers
    assert block.fits
    assert 1 < layers < RUN.model.num_layers
    fewer = replace(block.parallel, recompute_num_layers=layers - 1)
    assert fullest_memory(workload(), fewer, 1, 32).peak > between * 2**30
    assert block.recompute_flops == pytest.approx(full.recompute_flops * layers / 40)
    assert f"--recompute-method block --recompute-num-layers {layers}" in block.flags()
    assert full.rank > block.rank > none.rank


def test_where_all_layers_do_not_fit_none_is_promised():
    (block,) = layouts(1, "block")
    assert not block.fits
    assert block.parallel.recompute_num_layers == RUN.model.num_layers
    assert layouts(1, "full")[0].recompute_flops == pytest.approx(block.recompute_flops)


def test_weights_in_fp8_alone_take_two_bytes_less():
    kept = fullest_memory(workload(fp8_format="hybrid"), DIVIDED, 1, 32)
    alone = fullest_memory(workload(fp8_format="hybrid", fp8_param_gather=True), DIVIDED, 1, 32)
    width, ffn = RUN.model.hidden_size, RUN.model.ffn_hidden_size
    attention = width * 128 * (2 * 32 + 2 * 2)
    matrices = 40 * (attention + 3 * width * ffn) // 2
    biases = 40 * 128 * (32 + 2 * 2) // 2
    assert kept.weights - alone.weights == pytest.approx(2 * matrices, abs=2 * biases + 2**20)
    assert alone.weights > 0
    assert alone.optimizer == kept.optimizer


def test_recorded_layers_keep_their_activations_while_the_optimizer_works():
    """What was recorded is replayed at the same addresses, so it is never free."""
    few = replace(RUN.model, num_layers=2)
    plain, graphs = (
        fullest_memory(replace(workload(**changes), model=few), ParallelConfig(), 1, 1)
        for changes in ({}, {"cuda_graph_impl": "local"})
    )
    assert plain.peak <= graphs.peak
    bf16 = ParallelConfig(grad_reduce_in_bf16=True)  # the optimizer's copies are the peak
    plain, graphs = (
        fullest_memory(workload(**changes), bf16, 1, 1)
        for changes in ({}, {"cuda_graph_impl": "local"})
    )
    assert plain.peak + 2**30 < graphs.peak


def test_userbuffers_are_counted():
    plain = fullest_memory(workload(), DIVIDED, 1, 32)
    overlapped = fullest_memory(workload(), replace(DIVIDED, tp_comm_overlap=True), 1, 32)
    assert overlapped.peak - plain.peak == 10 * 2 * 8192 * RUN.model.hidden_size


def test_the_loss_of_a_large_vocabulary_is_the_one_that_runs():
    assert workload().implementation.cross_entropy == "te"
