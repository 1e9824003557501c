"""Context parallelism on two GPUs trains like one."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from megatron_speech.io.files import read_json, write_json
from megatron_speech.model.precision import PrecisionConfig
from megatron_speech.training.parallel_config import ParallelConfig
from tests.training.megatron_world import Run, run

pytestmark = pytest.mark.gpus

ENGINE = PrecisionConfig(bf16=True, transformer_impl="transformer_engine")


def _train(rank, folder, task):
    store = dist.FileStore(str(folder / "store"), 2)
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", store=store, rank=rank, world_size=2)
    steps = run(task)["steps"]
    if rank == 0:
        write_json(folder / "steps.json", steps)
    dist.destroy_process_group()


def test_two_gpus_share_a_window(tmp_path):
    run(Run(last=0, save=tmp_path / "weights", precision=ENGINE))
    one = Run(weights=tmp_path / "weights", last=4, precision=ENGINE, tensors=False, packed=False)
    expected = run(one)["steps"]
    task = replace(one, parallel=ParallelConfig(context_parallel_size=2))
    torch.multiprocessing.spawn(_train, args=(tmp_path, task), nprocs=2)
    for found, wanted in zip(read_json(tmp_path / "steps.json"), expected, strict=True):
        for name in ("lm loss", "text loss", "speech loss"):
            assert found[name] == pytest.approx(wanted[name], rel=1e-2), name
