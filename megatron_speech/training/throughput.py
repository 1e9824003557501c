"""How fast a run is, how much of the device it uses, and which process is slow."""

import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from .devices import peak_tflops
from .reporting import PROCESS_TIMES
from .task import Metrics

_PARTS = ("data", "forward")


class Throughput:
    """Counts tokens and takes the time of parts of a step on every process.

    `train_flops_per_token` is the count of model FLOPs (model/config.py): causal attention, no
    recomputation. Reading data and the forward pass are timed on each process by itself: these
    are the times that differ where one device or one disk is slow, whereas the time of a whole
    step is that of the slowest on all.
    """

    def __init__(self, device: torch.device, train_flops_per_token: float):
        self._device, self._flops = device, train_flops_per_token
        self._tokens = 0
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        self._peak = peak_tflops(name)

    def add_tokens(self, tokens: int) -> None:
        """Count the tokens of a finished step, over all processes."""
        self._tokens += tokens

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Time spent on making a batch."""
        started = time.perf_counter()
        yield
        self._seconds["data"] += time.perf_counter() - started

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Time spent in the forward pass; on a GPU its own clock is asked, without waiting."""
        if self._device.type == "cuda":
            pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            pair[0].record()
            yield
            pair[1].record()
            self._events.append(pair)
            return
        started = time.perf_counter()
        yield
        self._seconds["forward"] += time.perf_counter() - started

    def take(self, seconds: float) -> Metrics:
        """Figures since the last call, which took `seconds` of training; collective."""
        slow = self._slowest()
        world = dist.get_world_size()
        rate = self._tokens / max(seconds, 1e-9) / world
        self._tokens = 0
        tflops = rate * self._flops / 1e12
        found = {"tokens/s/GPU": rate, "throughput per GPU (TFLOP/s/GPU)": tflops}
        if self._peak is not None:
            found["MFU (%)"] = 100 * tflops / self._peak
        return found | {"memory (GiB)": self._memory()} | (slow if world > 1 else {})

    def _memory(self) -> float:
        """Most memory of this process so far: of the GPU, or of a CPU process."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    def _slowest(self) -> Metrics:
        """The slowest process's times beside the median, in milliseconds of the interval."""
        if self._events:
            torch.cuda.synchronize(self._device)
            self._seconds["forward"] += sum(a.elapsed_time(b) for a, b in self._events) / 1e3
            self._events.clear()
        mine = torch.tensor([self._seconds[part] for part in _PARTS], device=self._device)
        self._seconds.clear()
        everyone = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, mine)
        times = 1000 * torch.stack(everyone).cpu()
        found: Metrics = {}
        for index, part in enumerate(_PARTS):
            slowest, median = times[:, index].max().item(), times[:, index].median().item()
            figures = (slowest, median, float(times[:, index].argmax()))
            found |= {part + name: x for name, x in zip(PROCESS_TIMES, figures, strict=True)}
        return found
