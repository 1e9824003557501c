"""Logits of an imported base model under a layout, in this process or by a group of ranks."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_speech.model.config import ModelConfig
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.training.megatron_checkpoint import IDENTITY_KEY, read_common
from megatron_speech.training.parallel import ParallelConfig, session
from tests.model.base_folders import ROWS

TOKENS = torch.randint(0, ROWS, (2, 24), generator=torch.Generator().manual_seed(5))


def megatron_logits(run: Path, parallel: ParallelConfig) -> Tensor:
    """Logits (2, 24, padded vocabulary) of the imported checkpoint, gathered over ranks."""
    from megatron.core import dist_checkpointing, parallel_state, tensor_parallel

    directory = run / "iter_0000000"
    with session(parallel), torch.no_grad():
        stored = read_common(directory)[IDENTITY_KEY]
        options = BuildOptions(padded_vocab_size=stored["padded_vocab_size"])
        chunk = build_model(ModelConfig.from_mapping(stored), parallel, options)[0].eval()
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        metadata = {"dp_cp_group": group, "singleton_local_shards": False}
        state = {"model": chunk.sharded_state_dict(metadata=metadata)}
        chunk.load_state_dict(dist_checkpointing.load(state, str(directory))["model"])
        positions = torch.arange(TOKENS.size(1)).expand_as(TOKENS)
        logits = chunk(TOKENS, positions, None)
        return tensor_parallel.gather_from_tensor_model_parallel_region(logits)


def main(rank: int, ranks: int, folder: Path, runs: list[Path]) -> None:
    """Save `<run>-tp<ranks>.pt` for each run, computed by `ranks` tensor-parallel ranks."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"store-{ranks}"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    for run in runs:
        logits = megatron_logits(run, ParallelConfig(tensor_model_parallel_size=ranks))
        if rank == 0:
            torch.save(logits, f"{run}-tp{ranks}.pt")
    dist.destroy_process_group()
