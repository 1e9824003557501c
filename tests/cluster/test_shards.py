"""What a process holds is counted to the byte: compared with what core allocates there."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from megatron_speech.cluster.shards import Shard, checkpoint_bytes, lay_out, stage_shards
from megatron_speech.model.config import ModelConfig
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.model.lora import add_lora
from megatron_speech.model.lora_config import TARGETS, LoRAConfig
from megatron_speech.model.precision import PrecisionConfig
from megatron_speech.recipes import lm
from megatron_speech.training.batch_config import BatchConfig
from megatron_speech.training.megatron.optimizer import build_optimizer, wrap_data_parallel
from megatron_speech.training.parallel_config import ParallelConfig
from tests.cluster.pretend import standing_at
from tests.training import megatron_world

VOCAB, ROWS = 1024, (700, 901)
MODEL = ModelConfig(
    num_layers=4,
    hidden_size=48,
    ffn_hidden_size=72,
    num_attention_heads=4,
    num_query_groups=2,
    max_position_embeddings=64,
)
OVERLAP = {"overlap_grad_reduce": True, "ddp_bucket_size": 20_000}
SHAPES = [
    (1, {}),
    (6, {}),
    (4, {"tensor_model_parallel_size": 2}),
    (4, {"pipeline_model_parallel_size": 2}),
    (8, {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}),
    (6, {"pipeline_model_parallel_size": 2, "num_virtual_stages_per_pipeline_rank": 2}),
    (3, OVERLAP),
    (3, {**OVERLAP, "grad_reduce_in_bf16": True}),
    (6, {"pipeline_model_parallel_size": 2, **OVERLAP}),
]


def allocated(
    model: ModelConfig, parallel: ParallelConfig, bf16: bool, lora: LoRAConfig | None = None
) -> dict[str, int]:
    """Bytes that core holds after an optimizer step."""
    options = BuildOptions(padded_vocab_size=VOCAB, precision=PrecisionConfig(bf16=bf16))
    built = build_model(model, parallel, options)
    if lora is not None:
        add_lora(built, model, lora, ROWS if lora.lora_train_embedding else None, seed=1)
    chunks = wrap_data_parallel(built, BatchConfig(), parallel)
    optimizer = build_optimizer(chunks, BatchConfig(), parallel)
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        for group in part.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        part.optimizer.step()
    buffers = [buffer for chunk in chunks for buffer in chunk.buffers]
    weights = {p.untyped_storage().data_ptr(): p for c in chunks for p in c.parameters()}
    found = {
        "weights": sum(p.untyped_storage().nbytes() for p in weights.values()),
        "gradients": sum(buffer.grad_data.nbytes for buffer in buffers),
        "optimizer": 0,
    }
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        for group in part.optimizer.param_groups:
            for parameter in group["params"]:
                state = part.optimizer.state[parameter]
                found["optimizer"] += state["exp_avg"].nbytes + state["exp_avg_sq"].nbytes
                if bf16:
                    found["optimizer"] += parameter.nbytes
                    assert parameter.dtype == torch.float32
    return found


@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize(("world_size", "shape"), SHAPES)
def test_bytes_of_every_process_are_those_core_allocates(world_size, shape, sharded):
    gather = sharded and shape.get("overlap_grad_reduce", False)
    parallel = ParallelConfig(
        **shape, use_distributed_optimizer=sharded, overlap_param_gather=gather
    )
    replicas = parallel.data_parallel_size(world_size)
    ranks = sorted({0, 1 % world_size, world_size // 2, world_size - 1})
    for index, rank in enumerate(ranks):
        bf16, tied = index % 2 == 0, index in (0, 3)
        model = replace(
            MODEL,
            untie_embeddings_and_output_weights=not tied,
            add_qkv_bias=tied,
            qk_layernorm=tied,
            family="olmo2" if tied and index == 3 else "llama",
        )
        with standing_at(rank, world_size, parallel) as layout:
            found = allocated(model, parallel, bf16)
        shards = stage_shards(model, parallel, VOCAB, layout.pipeline_rank, replicas)
        assert found == {
            "weights": shards.weight_bytes(bf16),
            "gradients": shards.gradient_bytes(bf16),
            "optimizer": shards.optimizer_bytes(
                BatchConfig().optimizer_bytes(bf16), layout.data_parallel_rank
            ),
        }, f"rank {rank}"


@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("world_size", "shape"), SHAPES[::2])
def test_bytes_of_adapters_are_those_core_allocates(world_size, shape, tied, sharded):
    parallel = ParallelConfig(**shape, use_distributed_optimizer=sharded)
    replicas = parallel.data_parallel_size(world_size)
    targets = ("linear_qkv", "linear_fc2") if tied else TARGETS
    lora = LoRAConfig(lora_rank=3, lora_targets=targets, lora_train_embedding=True)
    model = replace(MODEL, untie_embeddings_and_output_weights=not tied)
    for rank in sorted({0, world_size // 2, world_size - 1}):
        with standing_at(rank, world_size, parallel) as layout:
            found = allocated(model, parallel, True, lora)
        shards = stage_shards(
            model, parallel, VOCAB, layout.pipeline_rank, replicas, lora, ROWS[1] - ROWS[0]
        )
        of_parameter = BatchConfig().optimizer_bytes(bf16=True)
        assert found == {
            "weights": shards.weight_bytes(True),
            "gradients": shards.gradient_bytes(True),
            "optimizer": shards.optimizer_bytes(of_parameter, layout.data_parallel_rank),
        }, f"rank {rank}"


@pytest.mark.parametrize("recipe", sorted(lm.RECIPES))
def test_parameters_of_every_recipe_are_those_of_the_model(recipe):
    """Built without memory, as a process in the middle of a layout that has all divisions."""
    model = lm.RECIPES[recipe]().model
    vocabulary = 168_960
    tensor = 2 if model.num_attention_heads % 2 == 0 else 1
    parallel = ParallelConfig(tensor_model_parallel_size=tensor, pipeline_model_parallel_size=2)
    total = 0
    for stage in range(2):
        with (
            standing_at(stage * tensor * 4, tensor * 8, parallel) as layout,
            torch.device("meta"),
        ):
            assert layout.pipeline_rank == stage
            chunks = build_model(model, parallel, BuildOptions(padded_vocab_size=vocabulary))
            built = [p.numel() for chunk in chunks for p in chunk.parameters()]
        shards = stage_shards(model, parallel, vocabulary, stage, 4)
        assert [shard.elements for shard in shards.chunks[0]] == built
        norms = sum(s.elements for s in shards.chunks[0] if "norm" in s.name)
        shared = sum(s.elements for s in shards.chunks[0] if s.is_shared and stage)
        total += tensor * (shards.elements - norms - shared) + norms
    assert total == model.num_parameters(vocabulary)


def test_buffers_are_laid_out_as_core_does_it():
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    generator = torch.Generator().manual_seed(3)
    config = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=True)
    for replicas, bucket in product((1, 3, 64, 512), (None, 5_000)):
        sizes = torch.randint(1, 4_000, (17,), generator=generator).tolist()
        parameters = [nn.Parameter(torch.empty(size, device="meta")) for size in sizes]
        parameters[0].shared_embedding = parameters[-1].shared_embedding = True
        layout = DistributedOptimizer._compute_per_buffer_param_layout(
            parameters, bucket, replicas, config
        )
        chunk = [Shard("", size, is_shared=n in (0, 16)) for n, size in enumerate(sizes)]
        found = lay_out(chunk, bucket, replicas)
        assert list(found.buckets) == layout.bucket_indices
        expected = [layout.param_index_map[p][:2] for p in reversed(parameters)]
        assert list(found.places) == expected
        shares = found.elements_by_replica(replicas)
        assert len(shares) == replicas
        assert shares.sum() == sum(sizes)


@pytest.mark.parametrize(("bf16", "sharded"), [(False, False), (False, True), (True, True)])
def test_checkpoints_have_the_size_that_is_counted(bf16, sharded, tmp_path):
    parallel = ParallelConfig(use_distributed_optimizer=sharded)
    save = tmp_path / "run"
    megatron_world.run(
        megatron_world.Run(
            parallel=parallel, last=1, save=save, precision=PrecisionConfig(bf16=bf16)
        )
    )
    stored = FileSystemReader(save).read_metadata().state_dict_metadata.values()
    tensors = [entry for entry in stored if isinstance(entry, TensorStorageMetadata)]
    found = sum(entry.size.numel() * entry.properties.dtype.itemsize for entry in tensors)
    parameters = megatron_world.MODEL.num_parameters(megatron_world.VOCAB)
    assert found == checkpoint_bytes(parameters, bf16, sharded)
