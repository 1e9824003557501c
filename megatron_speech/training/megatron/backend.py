"""The megatron backend: trains a language model under any layout Megatron-Core offers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...errors import ConfigError
from ...text.vocab import is_speech
from ..batch_config import BatchConfig
from ..batch_schedule import micro_batches
from ..parallel_config import ParallelConfig, check_documents
from ..preference import PREFERENCE_METRICS, preference_loss
from ..task import Metrics, PendingSave, StepCheck, healthy
from ..throughput import Throughput
from . import checkpoint as megatron_checkpoint
from .batch import Batch, Reader, Windows, slice_for_context_parallel
from .gradients import Gradients
from .optimizer import (
    build_optimizer,
    build_scheduler,
    connect_gradients,
    whole_parameters,
    wrap_data_parallel,
)
from .parallel import ProcessLayout, random_state, set_random_state

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
    dpo_beta: float | None = None
    """Of windows that hold pairs of answers: the loss is then DPO's (preference.py)."""
    dpo_nll_weight: float = 0.0
    """Factor of the better answer's own loss beside it."""
    position: Mapping[str, Any] = field(default_factory=dict)
    """What a checkpoint keeps of the training blend, so that it can be changed."""
    train_flops_per_token: float = 0.0
    """Model FLOPs of a training step for one token (model/config.py); for the figures alone."""


class MegatronTrainer:
    """Trains model chunks by core's schedules; implements `task.Trainer`.

    Batch n of the training blend is known by its number alone (batch_schedule.py).
    """

    def __init__(
        self,
        chunks: Sequence[Any],
        data: TrainingData,
        config: BatchConfig,
        parallel: ParallelConfig,
        layout: ProcessLayout,
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
        config.check_division(layout.data_parallel_size, parallel)
        check_documents(parallel, data.separate_documents)
        self._schedule = config.schedule(data.seq_length)
        core_config = chunks[0].config
        # only Transformer Engine's layers, which bring the fused RoPE, read packed sequences
        self._packed: bool = data.separate_documents and core_config.apply_rope_fusion
        # with virtual stages each chunk asks for the same windows in its own time
        ahead = layout.device.type == "cuda" and len(chunks) == 1
        self._reader = Reader(self._packed, layout.device, ahead)
        self.chunks = wrap_data_parallel(chunks, config, parallel)
        self.optimizer = build_optimizer(self.chunks, config, parallel)
        self.scheduler = build_scheduler(self.optimizer, config, self._schedule, train_iters)
        connect_gradients(core_config, self.chunks, self.optimizer, parallel)
        self._gradients = Gradients(self.chunks, self.optimizer, data.code_offset, data.num_codes)
        self._throughput = Throughput(layout.device, data.train_flops_per_token)
        self._run_schedule = get_forward_backward_func()

    def train_step(
        self, iteration: int, batch: int | None = None, judge: StepCheck = healthy
    ) -> Metrics:
        """One optimizer step on global batch `batch`. `grad-norm` is the norm before clipping.

        A step that `judge` finds fault with is repeated from the same random state: what is sound
        the second time was a fault of the machine and is used, what is not leaves the weights and
        the schedule as they were.
        """
        batch = iteration if batch is None else batch
        state = random_state()
        metrics = self._gradients_of(batch)
        finding = judge(metrics)
        if finding is not None:
            set_random_state(state)
            metrics = self._gradients_of(batch)
            again = judge(metrics)
            if self.is_main_rank:
                kept = "again when repeated" if again else "sound when repeated: check the hardware"
                print(f"step {iteration + 1}: {finding}; {kept}", flush=True)
            finding = again
        learning_rate = self.optimizer.param_groups[0]["lr"]
        size = self._schedule.size(batch)
        self.consumed_samples = self._schedule.first(batch + 1)
        updated = finding is None and self._gradients.update(metrics["grad-norm"])
        if updated:
            self.scheduler.step(increment=size)
        self._throughput.add_tokens(size * self.data.seq_length)
        return metrics | {
            "learning-rate": float(learning_rate),
            "batch-size": float(size),
            "consumed samples": float(self.consumed_samples),
            "number of skipped iterations": float(not updated),
        }

    def _gradients_of(self, batch: int) -> Metrics:
        """Forward and backward pass over a global batch; losses and norms of the gradients."""
        for chunk in self.chunks:
            chunk.train()
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        first, size = self._schedule.first(batch), self._schedule.size(batch)
        reports = self._forward_backward(self.data.train, first, size, forward_only=False)
        self._gradients.prepare()
        losses = self._reduce_losses(reports)
        norms = {"grad-norm": self._gradients.norm()} | self._gradients.norms_by_group()
        return losses | norms

    def interval(self, seconds: float) -> Metrics:
        """Throughput and stragglers since the last call; collective."""
        return self._throughput.take(seconds)

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
        with torch.no_grad(), whole_parameters(self.chunks, self.parallel):
            for index in range(batches):
                first = index * self.samples_per_step
                reports += self._forward_backward(
                    windows, first, self.samples_per_step, forward_only=True
                )
        return reports

    def save(self, directory: Path) -> PendingSave | None:
        """Write a torch_dist checkpoint, with `--async-save` while training goes on."""
        self._reader.rest()
        with whole_parameters(self.chunks, self.parallel):
            return megatron_checkpoint.save(self, directory)

    def load(self, directory: Path, own: bool = True) -> None:
        """Read a torch_dist checkpoint, resharding it to this layout.

        `--no-load-optim` is about those of other runs: this run's `own` are read whole.
        """
        weights_alone = self.config.no_load_optim and not own
        megatron_checkpoint.load(self, directory, weights_alone)

    def data_position(self) -> dict[str, Any]:
        """Where the run stands in its data, for a checkpoint."""
        return {**self.data.position, "consumed_samples": self.consumed_samples}

    def any_rank(self, flag: bool) -> bool:
        """Logical or over ranks; also a barrier."""
        value = torch.tensor([int(flag)], device=self.layout.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value.item())

    def _forward_backward(
        self, windows: Windows, first: int, size: int, forward_only: bool
    ) -> list[Tensor]:
        """Run core's schedule over windows `first` .. `first + size`.

        Returns losses and counts of each micro-batch.
        """
        count = size // (self.config.micro_batch_size * self.layout.data_parallel_size)
        iterators = [self._batches(windows, first, size) for _ in self.chunks]
        rows, length = self.config.micro_batch_size, self.data.seq_length
        if self._packed:
            rows, length = 1, rows * length
        return self._run_schedule(
            forward_step_func=self._forward_step,
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=self.chunks if len(self.chunks) > 1 else self.chunks[0],
            num_microbatches=count,
            seq_length=length,
            micro_batch_size=rows,
            forward_only=forward_only,
        )

    def _batches(self, windows: Windows, first: int, size: int) -> Iterator[Batch]:
        """This process's micro-batches of a global batch; behind them the next one begins."""
        rows, layout = self.config.micro_batch_size, self.layout
        replicas, replica = layout.data_parallel_size, layout.data_parallel_rank
        own = [*micro_batches(first, size + rows * replicas, rows, replicas, replica)]
        for indices, then in pairwise(own):
            with self._throughput.reading():
                batch = self._reader.get(windows, indices, then)
                if self.parallel.context_parallel_size > 1:
                    batch = slice_for_context_parallel(batch)
            yield batch

    def _forward_step(self, batches: Iterator[Batch], model: nn.Module) -> tuple[Tensor, Any]:
        batch = next(batches)
        with self._throughput.forward():
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

        The latter are for reports, and not weighted. Of pairs see `preference_loss`.
        """
        mask = batch.loss_mask.flatten()
        losses = losses.float().flatten() * mask
        beta, pairs, reference = self.data.dpo_beta, batch.pairs, batch.reference
        if beta is not None and pairs is not None and reference is not None:
            weight = self.data.dpo_nll_weight
            pairs, reference = pairs.flatten(), reference.flatten()
            return preference_loss(-losses, mask, pairs, reference, beta, weight)
        labels = batch.labels.flatten()
        speech = is_speech(labels, self.data.code_offset, self.data.num_codes).float()
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
        names = _LOSSES if self.data.dpo_beta is None else PREFERENCE_METRICS
        total = torch.zeros(2 * len(names), dtype=torch.float64, device=self.layout.device)
        if self.layout.is_last_stage and self.layout.tensor_parallel_rank == 0:
            total += torch.stack(reports).sum(0)
        dist.all_reduce(total)
        sums, tokens = total[0::2].tolist(), total[1::2].tolist()
        return {
            f"{loss} {name}".rstrip(): value / count
            for loss, value, count in zip(names, sums, tokens, strict=True)
            if count
        }
