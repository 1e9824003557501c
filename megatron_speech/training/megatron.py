"""The megatron backend: trains a language model under any layout Megatron-Core offers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ConfigError
from . import megatron_checkpoint
from .batch import Batch, Windows, read_batch, slice_for_context_parallel
from .parallel import Layout, ParallelConfig
from .task import Metrics

_LOSSES = ("lm loss", "text loss", "speech loss")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Batch, optimizer and precision, in Megatron's names."""

    micro_batch_size: int = 16
    """Windows per process in one forward and backward pass."""
    global_batch_size: int = 16
    """Windows in one optimizer step, over all processes."""
    lr: float = 1.5e-3
    """Peak learning rate."""
    min_lr: float = 1.5e-4
    """Learning rate at the end of the decay."""
    lr_decay_style: Literal["constant", "linear", "cosine", "WSD"] = "linear"
    """Shape of the decay."""
    lr_warmup_iters: int = 0
    """Steps of linear warm-up from 0."""
    lr_decay_iters: int | None = None
    """Steps after which the decay ends; all steps if not given."""
    lr_wsd_decay_iters: int | None = None
    """Steps of the final decay of WSD; a tenth of all steps if not given."""
    lr_wsd_decay_style: Literal["exponential", "linear", "cosine", "minus_sqrt"] = "linear"
    """Shape of the final decay of WSD."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.95
    """Decay of the second moment."""
    adam_eps: float = 1e-8
    """Added to the denominator of the update."""
    clip_grad: float = 1.0
    """Largest gradient norm; 0 disables clipping."""
    bf16: bool = False
    """Parameters and activations in bfloat16; gradients and optimizer stay fp32."""
    eval_iters: int = 8
    """Global batches in one evaluation."""
    no_load_optim: bool = False
    """Take only the weights from a checkpoint: a new optimizer and schedule."""
    seed: int = 1234
    """Seed of weights, dropout and the order of data."""

    def micro_batches(self, data_parallel_size: int) -> int:
        """Micro-batches per process and step.

        Raises:
            ConfigError: the batch cannot be divided evenly.
        """
        share = self.micro_batch_size * data_parallel_size
        if self.global_batch_size % share:
            raise ConfigError(
                f"--global-batch-size {self.global_batch_size} is not a multiple of "
                f"--micro-batch-size {self.micro_batch_size} x {data_parallel_size} data-parallel "
                "processes; change one of them"
            )
        return self.global_batch_size // share


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Windows and what is said about their tokens."""

    train: Windows
    valid: Windows | None
    seq_length: int
    code_offset: int
    """First token id that is speech."""
    num_codes: int
    """Token ids that are speech; all others are text."""
    separate_documents: bool
    """Whether some windows hold documents that must not see each other."""


class MegatronTrainer:
    """Trains model chunks by core's schedules; implements `task.Trainer`.

    Step n reads windows n x global batch .. (n + 1) x global batch of the training blend.
    """

    def __init__(
        self,
        chunks: Sequence[nn.Module],
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
        self._micro_batches = config.micro_batches(layout.data_parallel_size)
        self._check_interleaving()
        core_config = chunks[0].config
        self._packed = data.separate_documents and core_config.apply_rope_fusion
        self.chunks = _wrap_data_parallel(chunks, config, parallel)
        self.optimizer = _build_optimizer(self.chunks, config, parallel)
        self.scheduler = _build_scheduler(self.optimizer, config, train_iters)
        _connect_gradients(core_config, self.chunks, self.optimizer, parallel)
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
        if updated:
            self.scheduler.step(increment=self.samples_per_step)
        return self._reduce_losses(reports) | {
            "grad-norm": float(grad_norm),
            "learning-rate": float(learning_rate),
            "batch-size": float(self.samples_per_step),
            "consumed samples": float((iteration + 1) * self.samples_per_step),
            "number of skipped iterations": float(not updated),
        }

    def evaluate(self, iteration: int) -> Metrics:
        """Losses over the first `eval_iters` global batches of the validation blend."""
        if self.data.valid is None:
            return {}
        for chunk in self.chunks:
            chunk.eval()
        batches = min(self.config.eval_iters, len(self.data.valid) // self.samples_per_step)
        if batches < 1:
            raise ConfigError(
                f"validation data gives {len(self.data.valid)} windows, fewer than one "
                f"--global-batch-size of {self.samples_per_step}; give more of it or none"
            )
        reports: list[Tensor] = []
        with torch.no_grad():
            for index in range(batches):
                reports += self._forward_backward(self.data.valid, index, forward_only=True)
        return self._reduce_losses(reports)

    def save(self, directory: Path) -> None:
        """Write a torch_dist checkpoint."""
        megatron_checkpoint.save(self, directory)

    def load(self, directory: Path) -> None:
        """Read a torch_dist checkpoint of any layout."""
        megatron_checkpoint.load(self, directory)

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
        """Sum of losses, number of tokens, and [lm, text, speech] x [sum, tokens] for reports."""
        mask = batch.loss_mask.flatten()
        losses = losses.float().flatten() * mask
        offset = self.data.code_offset
        labels = batch.labels.flatten()
        speech = ((labels >= offset) & (labels < offset + self.data.num_codes)).float()
        total, tokens = losses.sum(), mask.sum()
        with torch.no_grad():
            speech_total, speech_tokens = (losses * speech).sum(), (mask * speech).sum()
            report = torch.stack(
                [
                    *(total, tokens),
                    *(total - speech_total, tokens - speech_tokens),
                    *(speech_total, speech_tokens),
                ]
            ).double()
        return total, tokens.int(), report

    def _reduce_losses(self, reports: list[Tensor]) -> Metrics:
        """Means over the tokens of the global batch, known to every rank."""
        total = torch.zeros(2 * len(_LOSSES), dtype=torch.float64, device=self.layout.device)
        if self.layout.is_last_stage and self.layout.tensor_parallel_rank == 0:
            total += torch.stack(reports).sum(0)
        dist.all_reduce(total)
        sums, tokens = total[0::2].tolist(), total[1::2].tolist()
        return {
            name: value / count
            for name, value, count in zip(_LOSSES, sums, tokens, strict=True)
            if count
        }


def _wrap_data_parallel(
    chunks: Sequence[nn.Module], config: BatchConfig, parallel: ParallelConfig
) -> list[nn.Module]:
    """Core's DistributedDataParallel around each chunk, fp32 gradients in its buffers."""
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
        use_distributed_optimizer=parallel.use_distributed_optimizer,
    )
    wrapped: list[nn.Module] = []
    for index, chunk in enumerate(chunks):
        wrapped.append(
            DistributedDataParallel(chunk.config, ddp_config, chunk, disable_bucketing=index > 0)
        )
    return wrapped


def _build_optimizer(chunks: list[nn.Module], config: BatchConfig, parallel: ParallelConfig) -> Any:
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

    return get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=config.lr,
            min_lr=config.min_lr,
            weight_decay=config.weight_decay,
            adam_beta1=config.adam_beta1,
            adam_beta2=config.adam_beta2,
            adam_eps=config.adam_eps,
            clip_grad=config.clip_grad,
            bf16=config.bf16,
            params_dtype=torch.bfloat16 if config.bf16 else torch.float32,
            use_distributed_optimizer=parallel.use_distributed_optimizer,
            overlap_param_gather=parallel.overlap_param_gather,
        ),
        chunks,
    )


def _build_scheduler(optimizer: Any, config: BatchConfig, train_iters: int) -> Any:
    """Core's schedule; it counts samples, the settings count steps."""
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    size = config.global_batch_size
    decay_iters = config.lr_decay_iters or train_iters
    if config.lr_warmup_iters >= decay_iters:
        raise ConfigError(
            f"--lr-warmup-iters {config.lr_warmup_iters} leaves no steps of --lr-decay-iters "
            f"{decay_iters} (--train-iters if not given); lower the warm-up"
        )
    wsd_decay_iters = config.lr_wsd_decay_iters or max(decay_iters // 10, 1)
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=config.lr,
        min_lr=config.min_lr,
        lr_warmup_steps=config.lr_warmup_iters * size,
        lr_decay_steps=decay_iters * size,
        lr_decay_style=config.lr_decay_style,
        start_wd=config.weight_decay,
        end_wd=config.weight_decay,
        wd_incr_steps=train_iters * size,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
        wsd_decay_steps=wsd_decay_iters * size,
        lr_wsd_decay_style=config.lr_wsd_decay_style,
    )


def _connect_gradients(
    core_config: Any, chunks: list[nn.Module], optimizer: Any, parallel: ParallelConfig
) -> None:
    """Tell core's schedules how gradients are scaled, reduced and finished."""
    from megatron.core.distributed import finalize_model_grads

    core_config.grad_scale_func = optimizer.scale_loss
    core_config.finalize_model_grads_func = finalize_model_grads
    single = len(chunks) == 1
    if parallel.overlap_grad_reduce:
        no_sync = [chunk.no_sync for chunk in chunks]
        core_config.no_sync_func = no_sync[0] if single else no_sync
    if parallel.overlap_param_gather:
        sync = [chunk.start_param_sync for chunk in chunks]
        core_config.param_sync_func = sync[0] if single else sync
