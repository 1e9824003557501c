"""OLMo 2's norm of all heads together, divided by two processes, and what a layout must divide."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F

from megatron_speech.errors import ConfigError
from megatron_speech.model.config import ModelConfig
from megatron_speech.model.families import hf_shapes
from megatron_speech.training.megatron.parallel import session
from megatron_speech.training.parallel_config import ParallelConfig

HEADS, SIZE, EPS = 4, 6, 1e-5
TWO = ParallelConfig(tensor_model_parallel_size=2)


def values():
    """Input (s, b, heads, c), weight, and the gradient of the output."""
    generator = torch.Generator().manual_seed(3)
    shapes = (5, 2, HEADS, SIZE), (HEADS * SIZE,), (5, 2, HEADS, SIZE)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def normed(norm, weight, x, upstream):
    """Output and gradients of input and weight."""
    with torch.no_grad():
        weight[1].copy_(weight[0])
    x = x.clone().requires_grad_()
    output = norm(x)
    output.backward(upstream)
    return {"output": output.detach(), "input": x.grad, "weight": weight[1].grad}


def of_rank(rank, folder):
    """This process's half of the heads."""
    from megatron_speech.model.layers import JointRMSNorm

    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    with session(TWO):
        config = SimpleNamespace(params_dtype=torch.float32)
        norm = JointRMSNorm(config, SIZE, EPS, num_heads=HEADS)
        x, weight, upstream = values()
        own = weight.chunk(2)[rank]
        found = normed(
            norm,
            (own, norm.joint_weight),
            x.chunk(2, dim=2)[rank],
            upstream.chunk(2, dim=2)[rank],
        )
        torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_output_and_gradients_of_one(tmp_path):
    torch.multiprocessing.spawn(of_rank, args=(tmp_path,), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    whole = torch.nn.Parameter(torch.empty(HEADS * SIZE))
    x, weight, upstream = values()

    def norm(x):
        return F.rms_norm(x.flatten(2), whole.shape, whole, EPS).view_as(x)

    expected = normed(norm, (weight, whole), x, upstream)
    for name, axis in (("output", 2), ("input", 2), ("weight", 0)):
        found = torch.cat([half[name] for half in halves], dim=axis)
        assert torch.allclose(found, expected[name], rtol=1e-5, atol=1e-6), name


def test_keys_that_processes_would_share_are_refused():
    model = ModelConfig(num_query_groups=2, family="olmo2", qk_layernorm=True)
    model.check_layout(TWO, 64, 1024)
    with pytest.raises(ConfigError, match="does not divide --num-query-groups 2"):
        model.check_layout(ParallelConfig(tensor_model_parallel_size=4), 64, 1024)


def test_its_parameters_are_counted():
    model = ModelConfig(family="olmo2", qk_layernorm=True, num_query_groups=2)
    shapes = hf_shapes(model, 300).values()
    assert model.num_parameters(300) == sum(torch.Size(shape).numel() for shape in shapes)
