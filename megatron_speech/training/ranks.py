"""What ranks of the ddp backend tell each other. Every rank must call these."""

import torch
import torch.distributed as dist

from .task import Metrics


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


def mean_over_ranks(metrics: Metrics, device: torch.device) -> Metrics:
    """Mean of each figure; all ranks must have the same names, in the same order."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return metrics
    values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=device)
    dist.all_reduce(values)
    return dict(zip(metrics, (values / dist.get_world_size()).tolist(), strict=True))
