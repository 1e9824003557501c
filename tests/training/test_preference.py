"""DPO: the loss is that of the paper, in every layout, and moves answers apart."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.nn.functional import logsigmoid

from megatron_speech.data.preferences import Preferences
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.training.megatron import checkpoint as megatron_checkpoint
from megatron_speech.training.megatron.backend import MegatronTrainer, TrainingData
from megatron_speech.training.megatron.batch import read_windows
from megatron_speech.training.megatron.parallel import ParallelConfig, session
from megatron_speech.training.preference import PREFERENCE_METRICS, preference_loss
from tests.training.megatron_world import (
    BATCH,
    CODE_OFFSET,
    IDENTITY,
    LENGTH,
    MODEL,
    NUM_CODES,
    VOCAB,
)

BETA, STEPS = 0.3, 4
ANSWERS = (slice(0, 6), slice(6, 14), slice(14, 21), slice(21, 30))
"""Better, worse, better, worse; then padding."""
SMALL = replace(MODEL, num_layers=2)


class Windows:
    """Windows of two pairs, a pure function of their index."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index % 8)
        ids = torch.randint(0, CODE_OFFSET + NUM_CODES, (LENGTH + 1,), generator=generator)
        documents = torch.full((LENGTH,), len(ANSWERS))
        preferences, mask = Preferences.none(LENGTH), torch.zeros(LENGTH)
        for number, place in enumerate(ANSWERS):
            documents[place] = number
            mask[place.start + 2 : place.stop] = 1.0  # two of the prompt
        for better, worse in zip(ANSWERS[::2], ANSWERS[1::2], strict=True):
            whole = slice(better.start, worse.stop)
            rejected = np.arange(whole.start, whole.stop) >= worse.start
            preferences.add(whole, rejected, float(torch.randn((), generator=generator)))
        return {
            "tokens": ids[:-1],
            "labels": ids[1:],
            "loss_mask": mask,
            "position_ids": torch.arange(LENGTH),
            "documents": documents,
            "pairs": torch.from_numpy(preferences.pairs),
            "reference": torch.from_numpy(preferences.reference),
        }


def by_hand(log_probabilities, window, beta=BETA, nll_weight=0.0):
    """Loss of each pair of a window, in float64; log-probabilities (s,) of all its labels."""
    losses = []
    likely = log_probabilities.double() * window["loss_mask"]
    for better, worse in zip(ANSWERS[::2], ANSWERS[1::2], strict=True):
        preferred = window["reference"][worse.stop - 1].double()
        margin = likely[better].sum() - likely[worse].sum() - preferred
        tokens = window["loss_mask"][better].sum()
        losses.append(-logsigmoid(beta * margin) - nll_weight * likely[better].sum() / tokens)
    return torch.stack(losses)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("nll_weight", [0.0, 0.7])
def test_the_loss_is_that_of_the_papers(packed, nll_weight):
    indices = [3, 5, 6]
    columns = read_windows(Windows(), indices, packed).columns
    generator = torch.Generator().manual_seed(1)
    likely = -torch.rand(len(indices), LENGTH, generator=generator) * 4
    expected = torch.cat(
        [by_hand(likely[n], Windows()[i], nll_weight=nll_weight) for n, i in enumerate(indices)]
    )
    masked = (likely * columns["loss_mask"].view(likely.shape)).flatten().requires_grad_()
    pairs, reference = columns["pairs"].flatten(), columns["reference"].flatten()
    mask = columns["loss_mask"].flatten()
    loss, count, report = preference_loss(masked, mask, pairs, reference, BETA, nll_weight)
    assert int(count) == 6
    assert loss.item() == pytest.approx(expected.sum().item(), rel=1e-6)
    plain = torch.cat([by_hand(likely[n], Windows()[i]) for n, i in enumerate(indices)])
    right = (plain < math.log(2)).sum().item()
    assert report[[1, 2, 3, 5, 7]].tolist() == [6, right, 6, 6, 6]
    if nll_weight:
        own = ((expected - plain) / nll_weight).sum().item()
        assert report[6].item() == pytest.approx(own, rel=1e-5)
    loss.backward()
    assert (masked.grad[pairs > 0] < 0).all(), "better answers become likelier"
    assert (masked.grad[pairs < 0] > 0).all(), "worse ones less"
    assert not masked.grad[pairs == 0].any()


def train(parallel=None, first=0, last=STEPS, load=None, save=None, micro_batch_size=1):
    """Metrics of the steps and of a validation before them; in one process the loss by hand."""
    parallel = parallel or ParallelConfig()
    with session(parallel, seed=7) as layout:
        chunks = build_model(SMALL, parallel, BuildOptions(padded_vocab_size=VOCAB))
        data = TrainingData(
            train=Windows(),
            valid={"": Windows()},
            seq_length=LENGTH,
            code_offset=CODE_OFFSET,
            num_codes=NUM_CODES,
            separate_documents=True,
            dpo_beta=BETA,
        )
        batch = replace(BATCH, micro_batch_size=micro_batch_size, lr=3e-3)
        trainer = MegatronTrainer(
            chunks, data, batch, parallel, layout, train_iters=40, identity=IDENTITY
        )
        if load is not None:
            trainer.load(load)
        before = trainer.evaluate(first)
        hand = None
        if layout.world_size == 1:
            hand = np.mean([_hand(trainer, Windows()[n]) for n in range(4)])
        steps = [trainer.train_step(index) for index in range(first, last)]
        if save is not None:
            if layout.is_main_rank:
                save.mkdir(parents=True)
            trainer.any_rank(False)
            megatron_checkpoint.save(trainer, save)
        return {"before": before, "hand": hand, "steps": steps}


def _hand(trainer, window):
    """Mean loss of a window's pairs, each answer read alone by the model."""
    chunk, likely = trainer.chunks[0].module, torch.zeros(LENGTH)
    with torch.no_grad():
        for place in ANSWERS:
            tokens = window["tokens"][place][None]
            # positions count from the start of the window in this test
            logits = chunk(tokens, window["position_ids"][place][None], None).float()
            own = logits[0].log_softmax(-1).gather(-1, window["labels"][place][:, None])
            likely[place] = own[:, 0]
    return by_hand(likely, window).mean().item()


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    parallel = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
    found = train(parallel, load=folder / "start")
    dist.destroy_process_group()
    if rank == 0:
        (folder / "tp2.json").write_text(json.dumps(found))


def test_training_by_it(tmp_path):
    """The model's loss, its layouts, its accumulation, and a run that was interrupted."""
    train(last=0, save=tmp_path / "start")
    alone = train(load=tmp_path / "start")
    assert alone["before"]["lm loss"] == pytest.approx(alone["hand"], rel=1e-6)
    assert alone["before"].keys() == set(PREFERENCE_METRICS)

    torch.multiprocessing.spawn(_rank, args=(tmp_path,), nprocs=2)
    two = json.loads((tmp_path / "tp2.json").read_text())
    at_once = train(load=tmp_path / "start", micro_batch_size=4)
    names = (*PREFERENCE_METRICS, "grad-norm")
    for other in (two, at_once):
        for found, expected in zip(other["steps"], alone["steps"], strict=True):
            assert [found[name] for name in names] == pytest.approx(
                [expected[name] for name in names], rel=1e-4
            )

    train(load=tmp_path / "start", last=2, save=tmp_path / "half")
    rest = train(load=tmp_path / "half", first=2, last=20)
    assert rest["steps"][:2] == alone["steps"][2:]
    last = rest["steps"][-1]
    assert last["lm loss"] < alone["steps"][0]["lm loss"] / 2
    assert last["reward accuracy"] == 1.0
