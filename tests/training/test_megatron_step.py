"""A step that is judged, repeated, left out; activations recomputed; batches that grow."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_speech.data.config import DataConfig
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.model.precision import PrecisionConfig
from megatron_speech.recipes.lm_recipes import LMConfig
from megatron_speech.training.megatron.backend import MegatronTrainer, TrainingData
from megatron_speech.training.megatron.parallel import session
from megatron_speech.training.parallel_config import ParallelConfig
from tests.training.megatron_world import (
    BATCH,
    CODE_OFFSET,
    LENGTH,
    MODEL,
    NUM_CODES,
    VOCAB,
    Windows,
)

ONE = ParallelConfig()
FP32 = PrecisionConfig()


def trainer(layout, parallel=ONE, model=MODEL, batch=BATCH, precision=FP32):
    torch.manual_seed(3)
    data = TrainingData(
        train=Windows(),
        valid={},
        seq_length=LENGTH,
        code_offset=CODE_OFFSET,
        num_codes=NUM_CODES,
        separate_documents=True,
        train_flops_per_token=model.train_flops_per_token(LENGTH, VOCAB),
    )
    options = BuildOptions(padded_vocab_size=VOCAB, precision=precision)
    chunks = build_model(model, parallel, options)
    return MegatronTrainer(chunks, data, batch, parallel, layout, 40, {})


def weights(made):
    return parameters_to_vector(made.chunks[0].module.parameters()).detach().clone()


def test_steps_are_those_of_megatron_training_to_the_bit(monkeypatch):
    """The trainer that ships with core, on the same model and windows."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    from megatron_step import megatron_train_step

    config = LMConfig(model=MODEL, data=DataConfig(seq_length=LENGTH), batch=BATCH)
    with session(ONE, seed=7) as layout:
        ours, theirs = trainer(layout), trainer(layout)
        with megatron_train_step(theirs, config) as step:
            for n in range(4):
                # the report averages in another precision, the weights may not differ
                assert ours.train_step(n)["lm loss"] == pytest.approx(step(n)["lm loss"], rel=1e-6)
        assert torch.equal(weights(ours), weights(theirs))


def test_gradients_reduced_in_bf16_train_nearly_alike():
    losses = []
    for parallel in (ONE, replace(ONE, grad_reduce_in_bf16=True)):
        with session(parallel, seed=7) as layout:
            made = trainer(layout, parallel, precision=PrecisionConfig(bf16=True))
            losses.append([made.train_step(n)["lm loss"] for n in range(6)])
            (buffer,) = made.chunks[0].buffers
            dtype = torch.bfloat16 if parallel.grad_reduce_in_bf16 else torch.float32
            assert buffer.grad_data.dtype == dtype
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


class Operations(TorchDispatchMode):
    """Counts what is computed inside it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_norms_by_group_cost_no_more_for_a_deeper_model():
    counts = []
    for layers in (4, 8):
        with session(ONE, seed=7) as layout:
            made = trainer(layout, model=replace(MODEL, num_layers=layers))
            made.train_step(0)
            with Operations() as operations:
                found = made._gradients.norms_by_group()
            whole = made._gradients.norm()
        assert math.hypot(*found.values()) == pytest.approx(whole, rel=1e-5)
        counts.append(operations.count)
    assert counts[0] == counts[1] < 20, counts


def test_a_fault_that_does_not_come_back_costs_nothing(capsys):
    model = replace(MODEL, hidden_dropout=0.2)  # the repeated step must draw the same
    findings = iter([None, "a bit fell over", None, None])
    with session(ONE, seed=7) as layout:
        plain, repeated = trainer(layout, model=model), trainer(layout, model=model)
        state = torch.get_rng_state()
        expected = [plain.train_step(n) for n in range(3)]
        torch.set_rng_state(state)
        found = [repeated.train_step(n, n, lambda _: next(findings)) for n in range(3)]
        assert torch.equal(weights(plain), weights(repeated))
    assert found == expected
    assert "step 2: a bit fell over; sound when repeated" in capsys.readouterr().out


def test_a_bad_batch_changes_nothing():
    with session(ONE, seed=7) as layout:
        made = trainer(layout, batch=replace(BATCH, lr_warmup_iters=0))
        made.train_step(0)
        before, rate = weights(made), made.train_step(1, 1, lambda _: "bad")["learning-rate"]
        assert torch.equal(weights(made), before)
        step = made.train_step(2)
        assert step["learning-rate"] == rate
        assert step["number of skipped iterations"] == 0
        assert not torch.equal(weights(made), before)


def test_nan_in_the_weights_does_not_spread():
    with session(ONE, seed=7) as layout:
        made = trainer(layout)
        seen = []
        embedding = made.chunks[0].module.embedding.word_embeddings.weight
        with torch.no_grad():
            embedding[:] = float("nan")
        step = made.train_step(0, 0, lambda metrics: seen.append(metrics) or "nan")
        assert seen[0]["lm loss"] != seen[0]["lm loss"]
        assert step["number of skipped iterations"] == 1
        rest = made.chunks[0].module.decoder.parameters()
        assert all(torch.isfinite(p).all() for p in rest)


@pytest.mark.parametrize(
    "settings",
    [
        {"recompute_granularity": "selective"},
        {"recompute_granularity": "selective", "recompute_modules": ("core_attn", "mlp")},
        {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 2,
        },
        {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 1},
    ],
)
def test_recomputed_activations_train_the_same(settings):
    parallel = ParallelConfig(**settings)
    with session(ONE, seed=7) as layout:
        plain, recomputed = trainer(layout), trainer(layout, parallel)
        steps = [made.train_step(0) for made in (plain, recomputed)]
        assert steps[0] == steps[1]
        assert torch.equal(weights(plain), weights(recomputed))


def test_batches_grow():
    growing = replace(BATCH, step_batch_size_schedule=f"0:2 {4 * LENGTH}:4", lr_warmup_iters=2)
    with session(ONE, seed=7) as layout:
        made = trainer(layout, batch=growing)
        steps = [made.train_step(n) for n in range(4)]
    assert [s["batch-size"] for s in steps] == [2, 2, 4, 4]
    assert [s["consumed samples"] for s in steps] == [2, 4, 8, 12]
    assert steps[1]["learning-rate"] == pytest.approx(BATCH.lr / 2)
    assert steps[2]["learning-rate"] == pytest.approx(BATCH.lr)


def test_figures_of_an_interval():
    with session(ONE, seed=7) as layout:
        made = trainer(layout)
        for n in range(2):
            made.train_step(n)
        figures = made.interval(seconds=2.0)
        rate = BATCH.global_batch_size * LENGTH  # two steps in two seconds
        assert figures["tokens/s/GPU"] == rate
        flops = MODEL.train_flops_per_token(LENGTH, VOCAB)
        assert figures["throughput per GPU (TFLOP/s/GPU)"] == pytest.approx(rate * flops / 1e12)
        assert "MFU (%)" not in figures
        assert made.interval(seconds=2.0)["tokens/s/GPU"] == 0


def test_weights_of_modalities_scale_gradients_and_not_reports():
    with session(ONE, seed=7) as layout:
        steps = {}
        for weights_ in ((1.0, 1.0), (2.0, 2.0), (1.0, 0.0), (0.0, 1.0)):
            made = trainer(layout, batch=replace(BATCH, clip_grad=0.0))
            made.data = replace(made.data, loss_weights=weights_)
            steps[weights_] = made.train_step(0)
    plain = steps[1.0, 1.0]
    for found in steps.values():
        for name in ("lm loss", "text loss", "speech loss"):
            assert found[name] == plain[name]
    assert steps[2.0, 2.0]["grad-norm"] == pytest.approx(2 * plain["grad-norm"], rel=1e-5)
    text, speech = (steps[alone]["grad-norm"] for alone in ((1.0, 0.0), (0.0, 1.0)))
    assert 0 < text != speech > 0
    assert abs(text - speech) < plain["grad-norm"] < text + speech


WARM_UP, PEAK, LOWEST, STEPS = 4, 1e-3, 1e-4, 40


def linear(share):
    return PEAK + (LOWEST - PEAK) * share


def cosine(share):
    return LOWEST + (PEAK - LOWEST) * (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({"lr_decay_style": "constant"}, lambda n: PEAK),
        ({"lr_decay_style": "linear"}, lambda n: linear((n - WARM_UP) / (STEPS - WARM_UP))),
        ({"lr_decay_style": "cosine"}, lambda n: cosine((n - WARM_UP) / (STEPS - WARM_UP))),
        (
            {"lr_decay_style": "cosine", "lr_decay_iters": 20},
            lambda n: cosine((n - WARM_UP) / (20 - WARM_UP)) if n < 20 else LOWEST,
        ),
        (
            {"lr_decay_style": "inverse-square-root"},
            lambda n: max(LOWEST, PEAK * math.sqrt(WARM_UP / n)),
        ),
        (
            {"lr_decay_style": "WSD", "lr_wsd_decay_iters": 10, "lr_wsd_decay_style": "linear"},
            lambda n: PEAK if n <= STEPS - 10 else linear((n - STEPS + 10) / 10),
        ),
    ],
)
def test_learning_rates_are_those_of_the_schedule(changes, rate):
    schedule = {"lr": PEAK, "min_lr": LOWEST, "lr_warmup_iters": WARM_UP, **changes}
    with session(ONE, seed=7) as layout:
        made = trainer(layout, batch=replace(BATCH, **schedule))
        found = [made.train_step(n)["learning-rate"] for n in range(STEPS)]
    assert found[:WARM_UP] == pytest.approx([PEAK * n / WARM_UP for n in range(WARM_UP)])
    assert found[WARM_UP:] == pytest.approx([rate(n) for n in range(WARM_UP, STEPS)])
