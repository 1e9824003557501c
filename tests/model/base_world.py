"""Logits of an imported base model under a layout, in this process or by a group of ranks."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_speech.model.config import ModelConfig
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.training.checkpoint_check import IDENTITY_KEY, read_common
from megatron_speech.training.parallel import session
from megatron_speech.training.parallel_config import ParallelConfig

ROWS = 300
"""Of the embedding; the tokenizer has 257 tokens."""
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


def main(rank: int, folder: Path, groups: list[tuple[tuple[int, ...], list[Path]]]) -> None:
    """Save `<run>-tp<n>.pt` for the runs of each group of n ranks that this rank is in."""
    torch.set_num_threads(1)
    for index, (ranks, runs) in enumerate(groups):
        if rank not in ranks:
            continue
        store = dist.FileStore(str(folder / f"store-{index}"), len(ranks))
        dist.init_process_group("gloo", store=store, rank=ranks.index(rank), world_size=len(ranks))
        for run in runs:
            logits = megatron_logits(run, ParallelConfig(tensor_model_parallel_size=len(ranks)))
            if rank == ranks[0]:
                torch.save(logits, f"{run}-tp{len(ranks)}.pt")
        dist.destroy_process_group()
