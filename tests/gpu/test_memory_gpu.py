"""The peak that plans promise is within 10% of what a training step on a GPU allocates."""

from dataclasses import replace

import pytest
import torch

from megatron_speech.cluster.memory import Workload, fullest_memory
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.model.precision import PrecisionConfig, choose
from megatron_speech.recipes import lm
from megatron_speech.training.batch_config import BatchConfig
from megatron_speech.training.installed import installed
from megatron_speech.training.megatron.backend import MegatronTrainer, TrainingData
from megatron_speech.training.megatron.parallel import session
from megatron_speech.training.parallel_config import ParallelConfig

pytestmark = pytest.mark.gpu

VOCAB, LENGTH = 168_960, 8192
BF16 = PrecisionConfig(bf16=True)
FULL = ParallelConfig(
    recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1
)
MLP = ParallelConfig(recompute_granularity="selective", recompute_modules=("mlp",))


class Windows:
    """Endless random windows of one document."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(0, VOCAB, (LENGTH + 1,), generator=generator)
        return {
            "tokens": ids[:-1],
            "labels": ids[1:],
            "loss_mask": torch.ones(LENGTH),
            "position_ids": torch.arange(LENGTH),
            "documents": torch.zeros(LENGTH, dtype=torch.long),
        }


@pytest.mark.parametrize(
    ("recipe", "layers", "parallel", "precision", "rows"),
    [
        ("lm-1.5b", 28, ParallelConfig(), BF16, 1),
        ("lm-1.5b", 28, MLP, BF16, 1),
        ("lm-1.5b", 28, FULL, BF16, 2),
        ("lm-1.5b", 14, ParallelConfig(), replace(BF16, cross_entropy_fusion_impl="te"), 2),
        ("lm-1.5b", 14, ParallelConfig(), replace(BF16, transformer_impl="local"), 1),
        ("lm-9b", 8, ParallelConfig(), BF16, 1),
        ("lm-9b", 8, ParallelConfig(), replace(BF16, fp8_format="hybrid"), 1),
    ],
)
def test_peak_is_within_a_tenth(recipe, layers, parallel, precision, rows, record_property):
    model = replace(lm.RECIPES[recipe]().model, num_layers=layers)
    batch = BatchConfig(micro_batch_size=rows, global_batch_size=2 * rows)
    torch.cuda.empty_cache()
    with session(parallel) as layout:
        options = BuildOptions(padded_vocab_size=VOCAB, precision=precision)
        data = TrainingData(
            train=Windows(),
            valid={},
            seq_length=LENGTH,
            code_offset=VOCAB - 16_384,
            num_codes=16_384,
            separate_documents=False,
        )
        chunks = build_model(model, parallel, options)
        trainer = MegatronTrainer(chunks, data, batch, parallel, layout, 10, {})
        trainer.train_step(0)  # the optimizer's state comes with the first step
        torch.cuda.reset_peak_memory_stats()
        trainer.train_step(1)
        measured = torch.cuda.max_memory_allocated()
        del trainer, chunks
    workload = Workload(
        model=model,
        padded_vocab_size=VOCAB,
        seq_length=LENGTH,
        global_batch_size=batch.global_batch_size,
        precision=precision,
        implementation=choose(precision, installed()),
    )
    estimate = fullest_memory(workload, parallel, rows, 1)
    record_property("planned over measured", estimate.peak / measured)
    assert estimate.peak == pytest.approx(measured, rel=0.1), estimate
