"""Shapes and layouts that cannot work are refused in words, before anything starts."""

from dataclasses import replace

import pytest

from megatron_speech.errors import ConfigError
from megatron_speech.model.config import ModelConfig
from megatron_speech.recipes import lm
from megatron_speech.training.megatron_optimizer import BatchConfig
from megatron_speech.training.parallel import ParallelConfig

MODEL = ModelConfig()
TWO = ParallelConfig(tensor_model_parallel_size=2)


@pytest.mark.parametrize(
    ("model", "parallel", "setting"),
    [
        (MODEL, ParallelConfig(tensor_model_parallel_size=3), "--num-attention-heads"),
        (replace(MODEL, ffn_hidden_size=333), TWO, "--ffn-hidden-size"),
        (
            replace(MODEL, num_attention_heads=12, num_query_groups=3, kv_channels=8),
            TWO,
            "--num-query-groups",
        ),
        (MODEL, ParallelConfig(pipeline_model_parallel_size=3), "--num-layers"),
        (
            replace(MODEL, num_layers=6),
            ParallelConfig(pipeline_model_parallel_size=2, num_virtual_stages_per_pipeline_rank=2),
            "virtual stages",
        ),
        (replace(MODEL, max_position_embeddings=128), ParallelConfig(), "--seq-length 256"),
    ],
)
def test_layout_that_does_not_divide_the_model(model, parallel, setting):
    with pytest.raises(ConfigError, match=setting):
        model.check_layout(parallel, seq_length=256, padded_vocab_size=2048)


def test_layout_that_divides_the_model():
    everything = ParallelConfig(
        tensor_model_parallel_size=2, pipeline_model_parallel_size=2, sequence_parallel=True
    )
    MODEL.check_layout(everything, seq_length=256, padded_vocab_size=2048)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequence_parallel": True}, "--tensor-model-parallel-size"),
        ({"tensor_model_parallel_size": 0}, "at least 1"),
        ({"num_virtual_stages_per_pipeline_rank": 2}, "--pipeline-model-parallel-size"),
        ({"overlap_param_gather": True}, "--use-distributed-optimizer"),
        ({"recompute_granularity": "full"}, "--recompute-method"),
    ],
)
def test_settings_that_exclude_each_other(settings, message):
    with pytest.raises(ConfigError, match=message):
        ParallelConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (ModelConfig, "num_query_groups"),
        (ModelConfig, "num_layers"),
        (BatchConfig, "micro_batch_size"),
        (BatchConfig, "eval_iters"),
    ],
)
def test_sizes_are_at_least_one(settings, name):
    with pytest.raises(ConfigError, match="at least 1"):
        settings(**{name: 0})


def test_processes_must_make_whole_replicas():
    assert TWO.data_parallel_size(4) == 2
    with pytest.raises(ConfigError, match="--nproc-per-node"):
        TWO.data_parallel_size(3)


def test_context_parallelism_needs_a_gpu():
    with pytest.raises(ConfigError, match="--context-parallel-size"):
        ParallelConfig(context_parallel_size=2).data_parallel_size(2)


def test_batch_must_divide():
    assert BatchConfig(micro_batch_size=2, global_batch_size=16).micro_batches(4) == 2
    with pytest.raises(ConfigError, match="--global-batch-size 16"):
        BatchConfig(micro_batch_size=3, global_batch_size=16).micro_batches(1)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="--kv-channels"):
        ModelConfig(hidden_size=100, num_attention_heads=3, num_query_groups=3)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("lm-debug", 3.5), ("t2t-debug", 2.2), ("lm-1.5b", 1550), ("lm-9b", 9530)],
)
def test_recipes_have_the_size_they_claim(name, millions):
    vocabulary = 168_960 if name.endswith("b") else 2048
    config = lm.RECIPES[name]()
    found = config.model.num_parameters(vocabulary) / 1e6
    assert found == pytest.approx(millions, rel=0.03)
    config.model.check_layout(config.parallel, config.data.seq_length, vocabulary)
    config.batch.micro_batches(8 if name.endswith("b") else 1)


def test_names_of_settings_are_unique_across_sections():
    config = lm.lm_debug()
    names = [name for section in vars(config).values() for name in vars(section)]
    assert len(names) == len(set(names))
