"""The megatron backend: trains a language model under any layout Megatron-Core offers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ConfigError
from . import megatron_checkpoint
from .batch import Batch, Windows, read_batch, slice_for_context_parallel
from .checkpoint import PendingSave
from .megatron_optimizer import (
    BatchConfig,
    build_optimizer,
    build_scheduler,
    connect_gradients,
    wrap_data_parallel,
)
from .parallel import Layout, ParallelConfig
from .task import Metrics

_LOSSES = ("lm loss", "text loss", "speech loss")


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Windows and what is said about their tokens."""

    train: Windows
    valid: Mapping[str, Windows]
    """Validation sets by name; one without a name is reported as the whole."""
    test: Windows | None = None
    """Evaluated after the last step, as a set called test."""
    seq_length: int
    code_offset: int
    """First token id that is speech."""
    num_codes: int
    """Token ids that are speech; all others are text."""
    separate_documents: bool
    """Whether some windows hold documents that must not see each other."""
    loss_weights: tuple[float, float] = (1.0, 1.0)
    """Factors of the loss on text and on speech tokens."""
    position: Mapping[str, Any] = field(default_factory=dict)
    """What a checkpoint keeps of the training blend, so that it can be changed."""


class MegatronTrainer:
    """Trains model chunks by core's schedules; implements `task.Trainer`.

    Step n reads windows n x global batch .. (n + 1) x global batch of the training blend.
    """

    def __init__(
        self,
        chunks: Sequence[Any],
        data: TrainingData,
        config: BatchConfig,
        parallel: ParallelConfig,
        layout: Layout,
        train_iters: int,
        identity: dict[str, Any],
    ):
        from megatron.core.pipeline_parallel import get_forward_backward_func

        self.config, self.parallel, self.layout, self.data = config, parallel, layout, data
        self.samples_per_step = config.global_batch_size
        self.is_main_rank = layout.is_main_rank
        self.identity = identity
        self.consumed_samples = 0
        self._train_iters = train_iters
        self._micro_batches = config.micro_batches(layout.data_parallel_size)
        self._check_interleaving()
        core_config = chunks[0].config
        self._packed: bool = data.separate_documents and core_config.apply_rope_fusion
        self.chunks = wrap_data_parallel(chunks, config, parallel)
        self.optimizer = build_optimizer(self.chunks, config, parallel)
        self.scheduler = build_scheduler(self.optimizer, config, train_iters)
        connect_gradients(core_config, self.chunks, self.optimizer, parallel)
        self._run_schedule = get_forward_backward_func()

    def _check_interleaving(self) -> None:
        stages = self.parallel.pipeline_model_parallel_size
        if self.parallel.num_virtual_stages_per_pipeline_rank > 1 and self._micro_batches % stages:
            raise ConfigError(
                f"{self._micro_batches} micro-batches per step cannot be interleaved over {stages} "
                "pipeline stages; make --global-batch-size a larger multiple"
            )
        if self.data.separate_documents and self.parallel.context_parallel_size > 1:
            raise ConfigError(
                "documents cannot be kept apart under --context-parallel-size above 1; use "
                "datasets of packing 'cut' without --reset-attention-mask, or set it to 1"
            )

    def train_step(self, iteration: int) -> Metrics:
        """One optimizer step. `grad-norm` is the norm before clipping."""
        for chunk in self.chunks:
            chunk.train()
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        reports = self._forward_backward(self.data.train, iteration, forward_only=False)
        updated, grad_norm, _ = self.optimizer.step()
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self.consumed_samples = (iteration + 1) * self.samples_per_step
        if updated:
            self.scheduler.step(increment=self.samples_per_step)
        return self._reduce_losses(reports) | {
            "grad-norm": float(grad_norm),
            "learning-rate": float(learning_rate),
            "batch-size": float(self.samples_per_step),
            "consumed samples": float(self.consumed_samples),
            "number of skipped iterations": float(not updated),
        }

    def evaluate(self, iteration: int) -> Metrics:
        """Losses over the first `eval_iters` global batches of each validation set.

        Sets that have names are reported as `lm loss NAME` and so on, and together as `lm loss`.
        """
        for chunk in self.chunks:
            chunk.eval()
        metrics: Metrics = {}
        together: list[Tensor] = []
        for name, windows in self.data.valid.items():
            reports = self._evaluate(windows)
            together += reports
            metrics |= self._reduce_losses(reports, name)
        if together and "" not in self.data.valid:
            metrics |= self._reduce_losses(together)
        if self.data.test is not None and iteration == self._train_iters:
            metrics |= self._reduce_losses(self._evaluate(self.data.test), "test")
        return metrics

    def _evaluate(self, windows: Windows) -> list[Tensor]:
        batches = min(self.config.eval_iters, len(windows) // self.samples_per_step)
        if batches < 1:
            raise ConfigError(
                f"validation data gives {len(windows)} windows, fewer than one "
                f"--global-batch-size of {self.samples_per_step}; give more of it or none"
            )
        reports: list[Tensor] = []
        with torch.no_grad():
            for index in range(batches):
                reports += self._forward_backward(windows, index, forward_only=True)
        return reports

    def save(self, directory: Path) -> PendingSave | None:
        """Write a torch_dist checkpoint, with `--async-save` while training goes on."""
        return megatron_checkpoint.save(self, directory)

    def load(self, directory: Path) -> None:
        """Read a torch_dist checkpoint of any layout."""
        megatron_checkpoint.load(self, directory)

    def data_position(self) -> dict[str, Any]:
        """Where the run stands in its data, for a checkpoint."""
        return {**self.data.position, "consumed_samples": self.consumed_samples}

    def any_rank(self, flag: bool) -> bool:
        """Logical or over ranks; also a barrier."""
        value = torch.tensor([int(flag)], device=self.layout.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value.item())

    def _forward_backward(self, windows: Windows, step: int, forward_only: bool) -> list[Tensor]:
        """Run core's schedule over one global batch; losses and counts of each micro-batch."""
        iterators = [self._batches(windows, step) for _ in self.chunks]
        rows, length = self.config.micro_batch_size, self.data.seq_length
        if self._packed:
            rows, length = 1, rows * length
        return self._run_schedule(
            forward_step_func=self._forward_step,
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=self.chunks if len(self.chunks) > 1 else self.chunks[0],
            num_microbatches=self._micro_batches,
            seq_length=length,
            micro_batch_size=rows,
            forward_only=forward_only,
        )

    def _batches(self, windows: Windows, step: int) -> Iterator[Batch]:
        """This process's micro-batches of a global batch, read when the schedule asks."""
        size, replicas = self.config.micro_batch_size, self.layout.data_parallel_size
        for micro_batch in range(self._micro_batches):
            first = step * self.samples_per_step + micro_batch * size * replicas
            first += self.layout.data_parallel_rank * size
            batch = read_batch(
                windows, range(first, first + size), self.layout.device, self._packed
            )
            if self.parallel.context_parallel_size > 1:
                batch = slice_for_context_parallel(batch)
            yield batch

    def _forward_step(self, batches: Iterator[Batch], model: nn.Module) -> tuple[Tensor, Any]:
        batch = next(batches)
        output = model(
            batch.tokens,
            batch.position_ids,
            batch.attention_mask,
            labels=batch.labels,
            packed_seq_params=batch.packed,
        )
        return output, partial(self._loss, batch)

    def _loss(self, batch: Batch, losses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted sum of losses, number of tokens, and [lm, text, speech] x [sum, tokens].

        The latter are for reports, and not weighted.
        """
        mask = batch.loss_mask.flatten()
        losses = losses.float().flatten() * mask
        offset = self.data.code_offset
        labels = batch.labels.flatten()
        speech = ((labels >= offset) & (labels < offset + self.data.num_codes)).float()
        text_weight, speech_weight = self.data.loss_weights
        weighted = losses * (text_weight + (speech_weight - text_weight) * speech)
        tokens = mask.sum()
        with torch.no_grad():
            total = losses.sum()
            speech_total, speech_tokens = (losses * speech).sum(), (mask * speech).sum()
            report = torch.stack(
                [
                    *(total, tokens),
                    *(total - speech_total, tokens - speech_tokens),
                    *(speech_total, speech_tokens),
                ]
            ).double()
        return weighted.sum(), tokens.int(), report

    def _reduce_losses(self, reports: list[Tensor], name: str = "") -> Metrics:
        """Means over the tokens of global batches, known to every rank; `name` ends their keys."""
        total = torch.zeros(2 * len(_LOSSES), dtype=torch.float64, device=self.layout.device)
        if self.layout.is_last_stage and self.layout.tensor_parallel_rank == 0:
            total += torch.stack(reports).sum(0)
        dist.all_reduce(total)
        sums, tokens = total[0::2].tolist(), total[1::2].tolist()
        return {
            f"{loss} {name}".rstrip(): value / count
            for loss, value, count in zip(_LOSSES, sums, tokens, strict=True)
            if count
        }
