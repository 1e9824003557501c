"""Activations are counted to the byte on CPU: compared with what autograd keeps there."""

from dataclasses import replace

import pytest
import torch

from megatron_speech.cluster.activations import Activations
from megatron_speech.model.config import ModelConfig
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.model.lora import add_lora
from megatron_speech.model.lora_config import LoRAConfig
from megatron_speech.model.precision import PrecisionConfig
from megatron_speech.training.parallel_config import ParallelConfig
from tests.cluster.pretend import standing_at

VOCAB, LENGTH = 256, 32
MODEL = ModelConfig(
    num_layers=4,
    hidden_size=96,
    ffn_hidden_size=160,
    num_attention_heads=8,
    num_query_groups=2,
    max_position_embeddings=LENGTH,
)
TENSOR = {"tensor_model_parallel_size": 2}
FULL = {"recompute_granularity": "full", "recompute_num_layers": 1}
SELECTIVE = {"recompute_granularity": "selective"}


def kept_bytes(
    model: ModelConfig,
    parallel: ParallelConfig,
    bf16: bool,
    rows: int,
    rank: int,
    lora: LoRAConfig | None = None,
):
    """Bytes that a forward pass of `rank` leaves for the backward pass, and its stage."""
    options = BuildOptions(padded_vocab_size=VOCAB, precision=PrecisionConfig(bf16=bf16))
    with standing_at(rank, parallel.model_parallel_size, parallel) as layout:
        chunk = build_model(model, parallel, options)[0].train()
        if lora is not None:
            add_lora([chunk], model, lora, None, seed=1)
        weights = {p.untyped_storage().data_ptr() for p in chunk.parameters()}
        kept: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            address = tensor.untyped_storage().data_ptr()
            if address not in weights:
                kept[address] = tensor  # holds it, so that no address comes twice
            return tensor

        tokens = torch.randint(0, VOCAB, (rows, LENGTH))
        if layout.pipeline_rank:
            dtype = torch.bfloat16 if bf16 else torch.float32
            stream = torch.randn(LENGTH, rows, model.hidden_size, dtype=dtype)
            chunk.set_input_tensor(stream.requires_grad_())
        positions = torch.arange(LENGTH).expand_as(tokens)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = chunk(tokens, positions, None, labels=tokens)
        assert output.requires_grad
        return sum(t.untyped_storage().nbytes() for t in kept.values()), layout, options


@pytest.mark.parametrize(
    ("shape", "changes", "bf16", "rows"),
    [
        ({}, {}, True, 2),
        ({}, {}, False, 1),
        ({}, {"qk_layernorm": True, "rotary_percent": 0.5}, True, 2),
        ({}, {"qk_layernorm": True, "family": "olmo2"}, True, 2),
        (TENSOR, {"qk_layernorm": True, "family": "olmo2"}, False, 1),
        ({}, {"ffn_hidden_size": 96, "num_query_groups": 8, "kv_channels": 20}, True, 1),
        (TENSOR, {}, True, 1),
        ({**TENSOR, "sequence_parallel": True}, {}, True, 2),
        ({"tensor_model_parallel_size": 4, "sequence_parallel": True}, {}, True, 1),
        ({"pipeline_model_parallel_size": 2}, {}, True, 2),
        ({**SELECTIVE, "recompute_modules": ("mlp",)}, {}, True, 2),
        ({**SELECTIVE}, {}, True, 1),
        ({**FULL, "recompute_method": "uniform"}, {}, True, 2),
        ({**FULL, "recompute_method": "uniform", "recompute_num_layers": 2}, {}, True, 2),
        ({**FULL, "recompute_method": "block"}, {}, True, 1),
    ],
)
def test_estimate_is_what_autograd_keeps(shape, changes, bf16, rows):
    parallel, model = ParallelConfig(**shape), replace(MODEL, **changes)
    stages = parallel.pipeline_model_parallel_size
    for rank in {0, parallel.model_parallel_size - 1}:
        found, layout, options = kept_bytes(model, parallel, bf16, rows, rank)
        estimate = Activations(
            model=model,
            parallel=parallel,
            padded_vocab_size=VOCAB,
            micro_batch_size=rows,
            seq_length=LENGTH,
            bf16=bf16,
            implementation=options.implementation,
        )
        expected = estimate.layers(model.num_layers // stages)
        expected += estimate.embedding if layout.pipeline_rank == 0 else 0
        expected += estimate.head if layout.is_last_stage else 0
        angles = 4 * LENGTH * int(model.head_size * model.rotary_percent)
        again = parallel.recompute_granularity
        few = angles if again == "full" else 4 * model.num_layers if again else 0
        assert expected <= found <= expected + few, (found - expected, few)


@pytest.mark.parametrize(("bf16", "loss", "kept"), [(True, "te", 2), (True, "native", 4)])
def test_a_loss_that_copies_the_logits_has_them_beside_what_it_keeps(bf16, loss, kept):
    """Transformer Engine overwrites a copy of the logits; they stand until the loss is there."""
    options = BuildOptions(padded_vocab_size=VOCAB, precision=PrecisionConfig(bf16=bf16))
    vocab = 1_000 * MODEL.hidden_size  # so large that nothing else counts
    estimate = Activations(
        model=MODEL,
        parallel=ParallelConfig(),
        padded_vocab_size=vocab,
        micro_batch_size=1_000,
        seq_length=LENGTH,
        bf16=bf16,
        implementation=replace(options.implementation, cross_entropy=loss),
    )
    logits = estimate.tokens * vocab
    assert estimate.head_peak == pytest.approx((kept + 2) * logits, rel=1e-2)


@pytest.mark.parametrize("shape", [{}, TENSOR, {**TENSOR, "sequence_parallel": True}])
def test_adapters_keep_what_is_counted(shape):
    """Beside what the layers keep in any case: torch composes frozen norms of fewer tensors."""
    parallel, rows = ParallelConfig(**shape), 2
    found = {}
    for rank in (4, 8):
        lora = LoRAConfig(lora_rank=rank)
        kept, _, options = kept_bytes(MODEL, parallel, True, rows, 0, lora)
        counted = Activations(
            model=MODEL,
            parallel=parallel,
            padded_vocab_size=VOCAB,
            micro_batch_size=rows,
            seq_length=LENGTH,
            bf16=True,
            implementation=options.implementation,
            lora=lora,
        )
        whole = counted.layers(MODEL.num_layers) + counted.head + counted.embedding
        assert 0.7 * whole < kept <= whole
        found[rank] = (kept, whole)
    (low, counted_low), (high, counted_high) = found[4], found[8]
    assert high - low == counted_high - counted_low  # what grows with the rank, to the byte
