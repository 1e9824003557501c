"""Context parallelism as far as a CPU can go: which part of a window each process gets.

Attention over the parts needs Transformer Engine: tests/gpus/test_context_parallel.py.
"""

import json

import torch
import torch.distributed as dist
import torch.multiprocessing

from megatron_speech.training.megatron.batch import read_batch, slice_for_context_parallel
from megatron_speech.training.megatron.parallel import session
from megatron_speech.training.parallel_config import ParallelConfig
from tests.training.megatron_world import LENGTH, Windows


def parts(rank, folder):
    """Write the positions of this process's part; TP2 and CP2, as in training."""
    ParallelConfig.check_machine = lambda self, here=None: None  # it refuses CP without a GPU
    store = dist.FileStore(str(folder / "store"), 4)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=4)
    parallel = ParallelConfig(tensor_model_parallel_size=2, context_parallel_size=2)
    with session(parallel, seed=7) as layout:
        batch = slice_for_context_parallel(read_batch(Windows(), [1, 2], layout.device, False))
    found = {name: getattr(batch, name).tolist() for name in ("position_ids", "tokens", "labels")}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_a_window_is_divided_among_its_context_group(tmp_path):
    """Two of four parts each, the outer and the inner ones: causal attention costs them alike."""
    torch.multiprocessing.spawn(parts, args=(tmp_path,), nprocs=4)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)]
    quarter = LENGTH // 4
    outer = [*range(quarter), *range(3 * quarter, LENGTH)]
    inner = list(range(quarter, 3 * quarter))
    # of one context group are ranks 0 and 2, of the other 1 and 3
    for rank, positions in enumerate((outer, outer, inner, inner)):
        assert found[rank]["position_ids"] == [positions] * 2
        for row, index in enumerate((1, 2)):
            window = Windows()[index]
            for name in ("tokens", "labels"):
                assert found[rank][name][row] == window[name][positions].tolist()
