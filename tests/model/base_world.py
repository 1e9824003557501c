"""Logits of an imported base model under a layout, in this process or by a group of ranks."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_speech.model.config import ModelConfig
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.training.megatron.checkpoint_check import IDENTITY_KEY, read_common
from megatron_speech.training.megatron.parallel import session
from megatron_speech.training.parallel_config import ParallelConfig

ROWS = 300
"""Of the embedding; the tokenizer has 257 tokens."""
TOKENS = torch.randint(0, ROWS, (2, 24), generator=torch.Generator().manual_seed(5))


def megatron_logits(run: Path, parallel: ParallelConfig, rows: int = ROWS) -> Tensor | None:
    """Logits (2, 24, padded vocabulary) of the imported checkpoint, gathered over ranks.

    None on the first of two pipeline stages, which hands its hidden states on.
    """
    from megatron.core import dist_checkpointing, parallel_state, tensor_parallel

    directory = run / "iter_0000000"
    with session(parallel) as layout, torch.no_grad():
        stored = read_common(directory)[IDENTITY_KEY]
        options = BuildOptions(padded_vocab_size=stored["padded_vocab_size"], vocab_rows=rows)
        chunk = build_model(ModelConfig.from_mapping(stored), parallel, options)[0].eval()
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        metadata = {"dp_cp_group": group, "singleton_local_shards": False}
        state = {"model": chunk.sharded_state_dict(metadata=metadata)}
        chunk.load_state_dict(dist_checkpointing.load(state, str(directory))["model"])
        if layout.pipeline_rank == 1:
            hidden = torch.empty(TOKENS.size(1), TOKENS.size(0), stored["hidden_size"])
            dist.recv(hidden, 0)
            chunk.set_input_tensor(hidden)
        positions = torch.arange(TOKENS.size(1)).expand_as(TOKENS)
        output = chunk(TOKENS, positions, None)
        if not layout.is_last_stage:
            dist.send(output.contiguous(), 1)
            return None
        return tensor_parallel.gather_from_tensor_model_parallel_region(output)


@dataclass(frozen=True)
class Group:
    """Ranks that compute the logits of some runs together."""

    name: str
    ranks: tuple[int, ...]
    parallel: ParallelConfig
    runs: tuple[Path, ...]
    rows: int = ROWS


def main(rank: int, folder: Path, groups: list[Group]) -> None:
    """Save `<run>-<name>.pt` for the runs of each group that this rank is in."""
    torch.set_num_threads(1)
    for group in groups:
        if rank not in group.ranks:
            continue
        size = len(group.ranks)
        store = dist.FileStore(str(folder / f"store-{group.name}-{group.ranks[0]}"), size)
        dist.init_process_group("gloo", store=store, rank=group.ranks.index(rank), world_size=size)
        for run in group.runs:
            logits = megatron_logits(run, group.parallel, group.rows)
            writer = 0 if group.parallel.pipeline_model_parallel_size == 1 else 1
            if dist.get_rank() == writer:
                torch.save(logits, f"{run}-{group.name}.pt")
        dist.destroy_process_group()
