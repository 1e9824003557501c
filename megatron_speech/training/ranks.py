"""What ranks of the ddp backend tell each other. Every rank must call these."""

import torch
import torch.distributed as dist

from .task import Metrics


def rank_and_size() -> tuple[int, int]:
    """Number of this process and how many there are: 0 of 1 without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def any_rank(flag: bool, device: torch.device) -> bool:
    """Logical or over ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return flag
    value = torch.tensor([int(flag)], device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def gather_objects[Value](value: Value) -> list[Value]:
    """What each rank gives, in rank order."""
    if not dist.is_initialized():
        return [value]
    gathered = [value] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def mean_over_ranks(metrics: dict[str, torch.Tensor]) -> Metrics:
    """Mean of each figure, a scalar; all ranks must have the same names, in the same order."""
    values = torch.stack([value.double() for value in metrics.values()])
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return dict(zip(metrics, values.tolist(), strict=True))
