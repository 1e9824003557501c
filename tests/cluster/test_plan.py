"""Plans: published sizes, stated speeds to days, layouts a run accepts, and nothing unsaid."""

import json
from dataclasses import replace

import pytest

from megatron_speech.cluster.memory import in_flight
from megatron_speech.cluster.plan import RunPlanConfig, make_plan, plan_of
from megatron_speech.cluster.rate import RateConfig, find_rate
from megatron_speech.cluster.stages import tokenizer_flops
from megatron_speech.errors import ConfigError
from megatron_speech.model.config import ModelConfig
from megatron_speech.recipes.lm_recipes import RECIPES
from megatron_speech.recipes.speech_tokenizer import tokenizer_large_v3
from megatron_speech.training.devices import GPUS
from megatron_speech.training.parallel_config import ParallelConfig
from tools import plan_run

PAPER = plan_of(RECIPES["lm-9b"]())


def shape(layers, width, ffn, heads, groups, **changes) -> ModelConfig:
    return ModelConfig(
        num_layers=layers,
        hidden_size=width,
        ffn_hidden_size=ffn,
        num_attention_heads=heads,
        num_query_groups=groups,
        **changes,
    )


UNTIED = {"untie_embeddings_and_output_weights": True}


@pytest.mark.parametrize(
    ("model", "vocabulary", "parameters"),
    [
        (shape(32, 4096, 11008, 32, 32, **UNTIED), 32_000, 6_738_415_616),  # Llama 2 7B
        (shape(32, 4096, 14336, 32, 8, **UNTIED), 128_256, 8_030_261_248),  # Llama 3 8B
        (shape(16, 2048, 8192, 32, 8), 128_256, 1_235_814_400),  # Llama 3.2 1B
        (shape(28, 1536, 8960, 12, 2, add_qkv_bias=True), 151_936, 1_543_714_304),  # Qwen2.5 1.5B
        (
            shape(28, 1024, 3072, 16, 8, kv_channels=128, qk_layernorm=True),
            151_936,
            596_049_920,
        ),  # Qwen3 0.6B
        (PAPER.model, 151_552, 9_399_951_360),  # GLM-4 9B
    ],
)
def test_published_models_have_their_published_size(model, vocabulary, parameters):
    assert model.num_parameters(vocabulary) == parameters


@pytest.mark.parametrize(
    ("billions", "width", "heads", "layers"),
    [
        (1.7, 2304, 24, 24),
        (3.6, 3072, 32, 30),
        (7.5, 4096, 32, 36),
        (18.4, 6144, 48, 40),
        (39.1, 8192, 64, 48),
        (76.1, 10240, 80, 60),
        (145.6, 12288, 96, 80),
        (310.1, 16384, 128, 96),
        (529.6, 20480, 160, 105),
        (1008.0, 25600, 160, 128),
    ],
)
def test_shapes_of_megatrons_scaling_table(billions, width, heads, layers):
    """arXiv 2104.04473, table 1: its ungated layer of 4 x width has the size of a gated 8/3."""
    model = shape(layers, width, round(8 * width / 3), heads, heads)
    assert model.num_parameters(51_200) / 1e9 == pytest.approx(billions, rel=0.012, abs=0.06)


@pytest.mark.parametrize(
    ("rate", "fp8", "tokens_per_s", "days"),
    [
        (RateConfig(tflops=744), "hybrid", 12_170, (14.9, 3.7, 0.9)),
        (RateConfig(mfu=50), None, 8_100, (22.3, 5.6, 1.4)),
    ],
)
def test_days_of_the_papers_run_follow_from_the_stated_speed(rate, fp8, tokens_per_s, days):
    precision = replace(PAPER.precision, fp8_format=fp8)
    config = replace(PAPER, tokens="1T", rate=rate, precision=precision, gpu_counts=(64, 256, 1024))
    plan = make_plan(config)
    assert plan.parameters == 9_542_557_696
    assert plan.flops_per_token == pytest.approx(61.15e9, rel=1e-3)
    for row, expected in zip(plan.rows, days, strict=True):
        assert row.tokens_per_s_per_gpu == pytest.approx(tokens_per_s, rel=2e-3)
        assert row.days == pytest.approx(expected, abs=0.06)
        assert row.gpu_hours == pytest.approx(24 * row.days * row.gpus)
        assert row.layout is not None
        assert (row.layout.recompute, row.layout.bubble) == ("none", 0)


def test_an_a100_of_40_gb_needs_more_division_or_recomputation():
    config = replace(PAPER, gpu_counts=(64,), gpus=64, rate=RateConfig(mfu=50))
    large, small = make_plan(config), make_plan(replace(config, gpu_memory_gb=40.0))
    assert small.chosen.layout is not None
    assert small.chosen.layout.memory.peak <= small.memory_gib * 2**30 < 40e9
    assert large.chosen.layout is not None
    assert small.chosen.layout.rank >= large.chosen.layout.rank
    none = make_plan(replace(config, gpu_memory_gb=8.0))
    assert none.chosen.layout is None


def test_more_gpus_than_windows_are_no_plan():
    """1,024 GPUs cannot share a batch of 128 windows but by dividing the model."""
    plan = make_plan(replace(PAPER, global_batch_size=128, gpus=1024, gpu_counts=(1024,)))
    assert plan.chosen.layout is not None
    assert plan.chosen.layout.parallel.model_parallel_size >= 8
    assert plan.chosen.layout.data_parallel_size <= 128


def test_layouts_of_a_plan_are_accepted_by_the_run():
    plan = make_plan(replace(PAPER, gpus=64, gpu_counts=(64,)))
    assert len(plan.layouts) > 20
    for layout in plan.layouts:
        layout.parallel.data_parallel_size(64)
        PAPER.model.check_layout(layout.parallel, 8192, 168_960)
        assert layout.parallel.tensor_model_parallel_size <= 8


def test_long_sequences_are_divided_where_nothing_else_fits():
    length = 2**20
    model = replace(PAPER.model, max_position_embeddings=length)
    config = replace(PAPER, model=model, seq_length=length, global_batch_size=64, gpus=64)
    plan = make_plan(replace(config, gpu_counts=()))
    assert plan.chosen.layout is not None
    assert plan.chosen.layout.parallel.context_parallel_size > 1


@pytest.mark.parametrize(("virtual", "first", "last"), [(1, 4, 1), (2, 11, 5)])
def test_micro_batches_in_flight_follow_the_schedules_warm_up(virtual, first, last):
    parallel = ParallelConfig(
        pipeline_model_parallel_size=4, num_virtual_stages_per_pipeline_rank=virtual
    )
    assert in_flight(parallel, 0, 16) == first
    assert in_flight(parallel, 3, 16) == last
    assert in_flight(parallel, 0, 1) == virtual


def test_operations_of_the_papers_tokenizer():
    encoder, look_up = tokenizer_flops(tokenizer_large_v3(4, 16_384).model)
    assert encoder == pytest.approx(1146e9, rel=1e-3)
    assert look_up == pytest.approx(15.7e9, rel=2e-3)


def test_a_measured_run_gives_the_speed(tmp_path):
    lines = [
        {"kind": "interval", "iteration": n, "throughput per GPU (TFLOP/s/GPU)": speed}
        for n, speed in enumerate((3.0, 400.0, 420.0, 410.0))
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rate = find_rate(RateConfig(measured_run=tmp_path), GPUS["H100"], False)
    assert (rate.tflops, rate.is_assumed, rate.includes_layout) == (410.0, False, True)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no throughput"):
        find_rate(RateConfig(measured_run=tmp_path), GPUS["H100"], False)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: RateConfig(mfu=40, tflops=400), "give one of them"),
        (lambda: RateConfig(mfu=-1), "--mfu"),
        (lambda: replace(PAPER, gpu="V100"), "--gpu V100"),
        (lambda: replace(PAPER, tokens="many"), "no count"),
        (lambda: replace(PAPER, gpus=0), "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, named):
    with pytest.raises(ConfigError, match=named):
        make()


def test_fp8_is_refused_for_gpus_without_it():
    precision = replace(PAPER.precision, fp8_format="hybrid")
    with pytest.raises(ConfigError, match="does not compute in FP8"):
        RunPlanConfig(tokens="1T", gpu="A100", precision=precision)


def test_the_tool_prints_what_is_assumed_and_writes_json(tmp_path, capsys):
    output = tmp_path / "plan.json"
    plan_run.main(["lm-9b", "--tokens", "1T", "--gpus", "64", "--output", str(output)])
    shown = capsys.readouterr().out
    assert "assumed: Megatron-LM's README" in shown
    assert "25,000 tokens/s/GPU" in shown
    assert "--tensor-model-parallel-size 2 --sequence-parallel" in shown
    plan = json.loads(output.read_text())
    assert plan["parameters"] == 9_542_557_696
    assert [row["gpus"] for row in plan["rows"]] == [64, 128, 256, 512, 1024]
    memory = plan["chosen"]["layout"]["memory"]
    assert memory["peak"] == sum(value for name, value in memory.items() if name != "peak")
    assert plan["stages"]["checkpoint_bytes"] == 14 * plan["parameters"]
