"""The ddp backend: any torch module with an objective, replicated over ranks.

Serves the speech tokenizer and the speech decoder; language models use the megatron backend.
"""

import gc
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn

from ..errors import CheckpointError
from ..io.files import atomic_path
from . import heartbeats
from .adamw_config import OptimizerConfig
from .checkpoint import unwritable
from .installed import own_gpu
from .ranks import any_rank, mean_over_ranks, rank_and_size
from .task import Metrics, StepCheck, healthy


class Batches[Item](Protocol):
    """A list, or something that is read while one goes through it."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Item]: ...


class Objective(Protocol):
    """What is trained: batches by iteration, loss, and what happens around a step."""

    samples_per_step: int
    reaches_all_parameters: bool
    """Every loss depends on every parameter that is trained. If not, several processes look for
    those left out after each micro-batch, on the CPU."""

    def batches(self, iteration: int) -> Batches[Any]:
        """This rank's micro-batches of step `iteration`: a pure function of it and the rank."""
        ...

    def before_step(self, model: Any, iteration: int) -> None:
        """Called before the first micro-batch of a step (codebook initialisation)."""

    def loss(
        self, model: Any, batch: Any, iteration: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Scalar loss of one micro-batch and its metrics, of the same names on every rank.

        Metrics are scalars on the device: to read one would wait for the device.
        """
        ...

    def after_step(self, model: Any, iteration: int) -> Metrics:
        """Called after the optimizer (codebook updates); metrics to add."""
        ...

    def drop_step(self, model: Any) -> None:
        """Called instead of `after_step` after a bad step: forget what its batches left."""

    def evaluate(self, model: Any, iteration: int) -> Metrics:
        """Metrics on held-out data."""
        ...

    def before_save(self) -> None:
        """Called by every rank before a checkpoint is written."""
        ...


@contextmanager
def process_group() -> Iterator[torch.device]:
    """Join torchrun's processes, if it started us, and yield this process's device.

    nccl where there are GPUs, gloo on CPUs; the group is left again at the end, by all processes
    together unless one of them failed. A process started alone gets no group. Whatever holds on
    to the group must be closed inside the block (`DdpTrainer.close`).
    """
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = own_gpu()
        torch.cuda.set_device(device)
    started = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if started:
        heartbeats.connect()
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
        if started:
            dist.barrier()
    finally:
        if started:
            dist.destroy_process_group()


class DdpTrainer:
    """Trains `model` by `objective`; implements `task.Trainer`.

    Runs under torchrun (one process a device) or alone without a process group. Gradients are
    averaged over ranks by DistributedDataParallel; buffers (codebooks) are the objective's.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: OptimizerConfig,
        train_iters: int,
        device: torch.device | str = "cpu",
    ):
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.objective = objective
        self.config = optimizer
        self.train_iters = train_iters
        self.samples_per_step = objective.samples_per_step
        self._rank, ranks = rank_and_size()
        self.is_main_rank = self._rank == 0
        self._samples = 0
        self._wrapped: nn.Module = self.model
        if ranks > 1:
            self._wrapped = nn.parallel.DistributedDataParallel(
                self.model,
                broadcast_buffers=False,
                find_unused_parameters=not objective.reaches_all_parameters,
            )
        self._optimizer = torch.optim.AdamW(
            _parameter_groups(self.model, optimizer.weight_decay),
            lr=optimizer.lr,
            betas=(optimizer.adam_beta1, optimizer.adam_beta2),
            eps=optimizer.adam_eps,
            fused=True,
        )

    def train_step(
        self, iteration: int, batch: int | None = None, judge: StepCheck = healthy
    ) -> Metrics:
        """One optimizer step over this rank's micro-batches of global batch `batch`.

        Figures are means over all ranks; `loss` is what is trained.
        """
        self.model.train()
        lr = self.config.lr_at(iteration, self.train_iters)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad(set_to_none=True)
        self.objective.before_step(self.model, iteration)
        batches = self.objective.batches(iteration if batch is None else batch)
        sums: dict[str, torch.Tensor] = {}
        for index, micro_batch in enumerate(batches):
            with self._synchronise_if(index == len(batches) - 1), self._autocast():
                loss, found = self.objective.loss(self._wrapped, micro_batch, iteration)
                (loss / len(batches)).backward()
            for name, value in ({"loss": loss} | found).items():
                share = value.detach().double() / len(batches)
                sums[name] = sums[name] + share if name in sums else share
        metrics = mean_over_ranks(sums)
        limit = self.config.clip_grad or float("inf")
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        norm = metrics["grad-norm"] = grad_norm.item()
        faulty = self.any_rank(judge(metrics) is not None) or not math.isfinite(norm)
        if faulty:
            self.objective.drop_step(self.model)
        else:
            self._optimizer.step()
            metrics |= self.objective.after_step(self.model, iteration)
        metrics["learning-rate"] = lr
        metrics["batch-size"] = self.samples_per_step
        metrics["consumed samples"] = (iteration + 1) * self.samples_per_step
        metrics["number of skipped iterations"] = float(faulty)
        self._samples += self.samples_per_step
        return metrics

    def interval(self, seconds: float) -> Metrics:
        """Samples a second since the last call, over all ranks."""
        samples, self._samples = self._samples, 0
        return {"samples/s": samples / max(seconds, 1e-9)}

    def evaluate(self, iteration: int) -> Metrics:
        """The objective's held-out metrics."""
        self.model.eval()
        with torch.no_grad(), self._autocast():
            return self.objective.evaluate(self.model, iteration)

    def save(self, directory: Path) -> None:
        """Model, optimizer and random state; the replicas are equal, so rank 0 writes the model.

        Raises:
            CheckpointError: the files could not be written (a full disk, most often).
        """
        self.objective.before_save()
        try:
            if self.is_main_rank:
                optimizer = self._optimizer.state_dict()
                state = {"model": self.model.state_dict(), "optimizer": optimizer}
                with atomic_path(directory / "state.pt") as temporary:
                    torch.save(state, temporary)
            with atomic_path(directory / f"rng_{self._rank}.pt") as temporary:
                torch.save(self._random_state(), temporary)
        except (RuntimeError, OSError) as error:
            raise unwritable(directory, error) from None

    def load(self, directory: Path, own: bool = True) -> None:
        """Read what `save` wrote; a run folder is trusted, see docs."""
        del own  # there is no setting that takes a part alone
        path = directory / "state.pt"
        if not path.exists():
            raise CheckpointError(f"{path} is missing: {directory} is no checkpoint of this kind")
        state = torch.load(path, map_location=self.device, weights_only=True)
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise CheckpointError(
                f"{path} was written by a model of another shape; use the settings it was "
                f"trained with or another --save folder.\n{error}"
            ) from None
        self._optimizer.load_state_dict(state["optimizer"])
        random = directory / f"rng_{self._rank}.pt"
        if random.exists():
            state = torch.load(random, weights_only=True)
            torch.set_rng_state(state["rng"])
            if "cuda_rng" in state and self.device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def _random_state(self) -> dict[str, torch.Tensor]:
        state = {"rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def close(self) -> None:
        """Let go of the process group; to be called before it is destroyed.

        The last owner of a gloo group waits for the group's thread, and that thread for Python's
        lock. DistributedDataParallel's reducer, freed after the group, would hold the lock.
        """
        wrapped, self._wrapped = self._wrapped, self.model
        if isinstance(wrapped, nn.parallel.DistributedDataParallel):
            del wrapped.logger, wrapped.reducer  # an exception's frames may hold `wrapped` itself
            del wrapped
            gc.collect()

    def any_rank(self, flag: bool) -> bool:
        """Logical or over ranks."""
        return any_rank(flag, self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)

    def _synchronise_if(self, last: bool) -> Any:
        if last or self._wrapped is self.model:
            return nullcontext()
        return self._wrapped.no_sync()  # type: ignore[attr-defined]


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and other vectors do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
