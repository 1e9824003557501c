"""A step waits for the device a fixed number of times, however many micro-batches it has."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from megatron_speech.speech_tokenizer import objective as asr
from megatron_speech.speech_tokenizer import quantizer
from megatron_speech.speech_tokenizer.batch import IGNORED, AsrBatch
from megatron_speech.speech_tokenizer.config import SpeechTokenizerConfig
from megatron_speech.speech_tokenizer.dataset import SpeechDataConfig
from megatron_speech.speech_tokenizer.model import SpeechTokenizerModel
from megatron_speech.speech_tokenizer.set_aside import SetAside
from megatron_speech.training.adamw_config import OptimizerConfig
from megatron_speech.training.ddp import DdpTrainer
from megatron_speech.training.megatron import backend
from megatron_speech.training.megatron import batch as batches
from megatron_speech.training.megatron.parallel import ParallelConfig, session
from tests.training.megatron_world import BATCH, Windows
from tests.training.test_megatron_step import trainer
from tests.training.waits import counted, on_the_cpu

SIZES = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 64,
    "num_mel_bins": 80,
    "vocab_size": 300,
    "eos_token_id": 0,
    "pooling_position": 1,
    "quantize_position": 1,
    "quantize_vocab_size": 64,
    "ctc_head": True,
}


def test_what_waits_is_seen(monkeypatch):
    """The counter itself, on code of ours that waits by design."""
    with counted(monkeypatch) as found:
        quantizer.perplexity(torch.ones(4))
        batches._boundaries(torch.zeros(1, 3, dtype=torch.long))
        torch.ones(3).tolist()  # asked by a test: not ours
    assert found == ["quantizer.py:perplexity _local_scalar_dense", "batch.py:_boundaries nonzero"]


def waits_of_a_step(monkeypatch, micro_batches: int) -> list[str]:
    """Of the language model; windows are read on the CPU."""
    monkeypatch.setattr(batches, "read_windows", on_the_cpu(batches.read_windows))
    config = replace(BATCH, micro_batch_size=1, global_batch_size=micro_batches)
    with session(ParallelConfig(), seed=7) as layout:
        made = trainer(layout, batch=config)
        made.train_step(0)
        with counted(monkeypatch) as found:
            made.train_step(1)
    return sorted(found)


def test_a_step_of_a_language_model(monkeypatch):
    few, many = (waits_of_a_step(monkeypatch, count) for count in (2, 8))
    assert few == many
    assert len(set(few)) <= 5, few


def asr_batch(model: SpeechTokenizerModel, clips: int = 3) -> AsrBatch:
    torch.manual_seed(0)
    mel = torch.randn(clips, model.config.num_mel_bins, 200)
    tokens = torch.randint(1, 250, (clips, 6))
    labels = tokens.clone()
    labels[:, :1] = IGNORED
    return AsrBatch(
        mel=mel,
        mel_lengths=torch.tensor([200, 160, 120][:clips]),
        decoder_input=tokens,
        labels=labels,
        targets=[[1, 2, 3]] * clips,
        characters=[[1, 2, 3, 4]] * clips,
        rejected=[],
    )


@pytest.mark.parametrize("quantize", [False, True])
def test_the_objective_of_the_speech_tokenizer(quantize, monkeypatch):
    """One wait for each micro-batch, where the quantizer takes the valid vectors; no others."""
    monkeypatch.setattr(quantizer, "nearest_codes", on_the_cpu(quantizer.nearest_codes))
    model = SpeechTokenizerModel(SpeechTokenizerConfig(**SIZES)).train()
    made = object.__new__(asr.AsrObjective)
    made.config = asr.ObjectiveConfig(quantize=quantize, ctc_weight=0.5)
    made.train = SimpleNamespace(config=model.config)
    batch = asr_batch(model)
    with counted(monkeypatch) as found:
        loss, metrics = made.loss(model, batch, 0)
        loss.backward()
    assert found == (["quantizer.py:forward nonzero"] if quantize else [])
    assert {"asr loss", "ctc loss"} <= metrics.keys()
    assert not any(value.requires_grad for value in metrics.values())


class Plain:
    """An objective of several micro-batches, and what they say."""

    samples_per_step = 4

    def __init__(self, count: int):
        generator = torch.Generator().manual_seed(count)
        self.data = [torch.randn(4, 3, generator=generator) for _ in range(count)]

    def batches(self, iteration):
        return self.data

    def before_step(self, model, iteration): ...

    def loss(self, model, batch, iteration):
        loss = model(batch).square().mean()
        return 2 * loss, {"half": loss.detach()}

    def after_step(self, model, iteration):
        return {}


def test_a_step_of_the_ddp_backend(monkeypatch):
    found = {}
    for count in (2, 6):
        torch.manual_seed(0)
        model, plain = nn.Linear(3, 1), Plain(count)
        made = DdpTrainer(model, plain, OptimizerConfig(), 10)
        made.train_step(0)
        with counted(monkeypatch) as waits:
            made.train_step(1)
        found[count] = list(waits)
    assert found[2] == found[6]
    assert len(found[2]) <= 2, found[2]


def test_figures_of_a_step_are_means_over_its_micro_batches():
    torch.manual_seed(0)
    model, plain = nn.Linear(3, 1), Plain(5)
    with torch.no_grad():
        halves = [plain.loss(model, part, 0)[1]["half"].item() for part in plain.data]
    metrics = DdpTrainer(model, plain, OptimizerConfig(), 10).train_step(0)
    assert metrics["half"] == pytest.approx(np.mean(halves), rel=1e-12)
    assert metrics["loss"] == pytest.approx(2 * np.mean(halves), rel=1e-6)


class Recorded(Windows):
    """Windows that know who asked for them."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __getitem__(self, index):
        self.asked.append(index)
        if index >= 1000:
            raise IndexError(index)
        return super().__getitem__(index)


def same(one, other) -> bool:
    return torch.equal(one.tokens, other.tokens) and torch.equal(one.labels, other.labels)


def test_the_next_micro_batch_is_read_meanwhile():
    device, windows = torch.device("cpu"), Recorded()
    reader = batches.Reader(packed=False, device=device, ahead=True)
    first = reader.get(windows, range(2), range(2, 4))
    reader.rest()
    assert windows.asked == [0, 1, 2, 3]
    second = reader.get(windows, range(2, 4))
    assert windows.asked == [0, 1, 2, 3]
    for found, indices in ((first, range(2)), (second, range(2, 4))):
        assert same(found, batches.read_batch(Windows(), indices, device, False))


def test_a_batch_that_was_not_foreseen_is_read():
    """After a bad step was left out, or validation windows."""
    device, windows, others = torch.device("cpu"), Recorded(), Recorded()
    reader = batches.Reader(packed=False, device=device, ahead=True)
    reader.get(windows, range(2), range(2, 4))
    assert same(
        reader.get(windows, range(6, 8)), batches.read_batch(Windows(), range(6, 8), device, False)
    )
    reader.get(windows, range(8, 10), range(10, 12))
    reader.get(others, range(10, 12))
    assert others.asked == [10, 11]


def test_windows_beyond_the_last_hurt_who_asks_for_them():
    reader = batches.Reader(packed=False, device=torch.device("cpu"), ahead=True)
    windows = Recorded()
    reader.get(windows, range(998, 1000), range(1000, 1002))
    reader.rest()
    reader.get(windows, range(2))
    reader.get(windows, range(998, 1000), range(1000, 1002))
    with pytest.raises(IndexError):
        reader.get(windows, range(1000, 1002))


def test_reading_ahead_changes_no_step(monkeypatch):
    losses, make = [], batches.Reader
    for ahead in (False, True):
        monkeypatch.setattr(
            backend, "Reader", lambda packed, device, _, ahead=ahead: make(packed, device, ahead)
        )
        with session(ParallelConfig(), seed=7) as layout:
            made = trainer(layout)
            losses.append([made.train_step(n)["lm loss"] for n in (0, 1, 3, 1)])
    assert losses[0] == losses[1]


class Wrapped(nn.Module):
    """What stands for DistributedDataParallel: keeps how it was asked for."""

    def __init__(self, model, **settings):
        super().__init__()
        self.settings = settings


@pytest.mark.parametrize("reaches", [True, False])
def test_parameters_left_out_are_looked_for_only_where_there_may_be_some(reaches, monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", Wrapped)
    plain = Plain(2)
    plain.reaches_all_parameters = reaches
    made = DdpTrainer(nn.Linear(3, 1), plain, OptimizerConfig(), 10)
    assert made._wrapped.settings["find_unused_parameters"] is not reaches


@pytest.mark.parametrize("quantizer_kind", ["vq", "fsq", "frozen"])
@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_speech_tokenizer_says_whether_all_parameters_are_reached(
    quantizer_kind, start, weight, monkeypatch, tmp_path
):
    frozen = quantizer_kind == "frozen"
    kind = {"quantizer": "vq" if frozen else quantizer_kind, "fsq_levels": (8, 8)}
    model = SpeechTokenizerModel(SpeechTokenizerConfig(**SIZES, **kind)).train()
    config = asr.ObjectiveConfig(
        quantize_start_step=start, ctc_weight=weight, kmeans_init=frozen, freeze_codes=frozen
    )
    data = SpeechDataConfig(micro_batch_size=2, global_batch_size=2)
    train = SimpleNamespace(config=model.config, data=data, durations_s=[1.0] * 4, sizes=[4])
    made = asr.AsrObjective(train, {}, config, torch.device("cpu"), SetAside(tmp_path / "r", False))
    left_out = set()
    for step in (0, 5):
        model.zero_grad()
        made.loss(model, asr_batch(model), step)[0].backward()
        trained = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
        left_out |= {name for name, p in trained if p.grad is None}
    assert made.reaches_all_parameters == (not left_out), left_out
    made.close()
