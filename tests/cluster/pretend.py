"""One process that stands where any of thousands would stand: process groups without others.

torch's fake process group has any size and does no communication, so core builds exactly what a
process of a large layout holds. What it computes is meaningless; what it allocates is not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from megatron_speech.training.megatron.parallel import ProcessLayout, session
from megatron_speech.training.parallel_config import ParallelConfig


@contextmanager
def standing_at(rank: int, world_size: int, parallel: ParallelConfig) -> Iterator[ProcessLayout]:
    """Be `rank` of `world_size` for the time of a `with` block."""
    real = dist.new_group

    def new_group(*args, **settings):
        settings["backend"] = None  # core asks for gloo beside the default
        return real(*args, **settings)

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        with mock.patch.object(dist, "new_group", new_group), session(parallel) as layout:
            yield layout
    finally:
        dist.destroy_process_group()
