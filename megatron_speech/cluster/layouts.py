"""Layouts a run accepts on so many GPUs, what each needs and costs, and which to take."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from ..errors import ConfigError
from ..recipes.lm_check import check_settings
from ..recipes.lm_recipes import LMConfig
from ..training.devices import Gpu
from ..training.installed import Installed
from ..training.parallel_config import ParallelConfig
from .memory import Memory, Workload, fullest_memory

_SIZES = (1, 2, 4, 8)
_TOKENS_TO_FILL_A_GPU = 8192
RECOMPUTATIONS: dict[str, dict] = {
    "none": {},
    "mlp": {"recompute_granularity": "selective", "recompute_modules": ("mlp",)},
    # as many layers as it takes to fit, found by _fewest_recomputed
    "block": {
        "recompute_granularity": "full",
        "recompute_method": "block",
        "recompute_num_layers": 1,
    },
    "full": {
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
    },
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a layout has to fit."""

    gpu: Gpu
    gpus_per_node: int
    memory_bytes: float
    """Memory a process may use."""
    tflops: float
    """Speed without recomputation and bubble."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to divide a run, with what it needs and how well it does."""

    parallel: ParallelConfig
    micro_batch_size: int
    data_parallel_size: int
    micro_batches: int
    """Micro-batches of a process in one step."""
    recompute: str
    memory: Memory
    fits: bool
    bubble: float
    """Share of a step in which a process waits for other pipeline stages."""
    recompute_flops: float
    """Operations done twice, as a share of all that are counted."""
    exposed_tensor_parallel: float
    """Time of tensor-parallel communication over that of computing, if nothing were hidden."""

    @property
    def efficiency(self) -> float:
        """Share of the stated speed that recomputation and bubble leave."""
        return (1 - self.bubble) / (1 + self.recompute_flops)

    @property
    def rank(self) -> tuple[float, int, int]:
        """The smallest is the best: fastest, then the fewest processes for one replica."""
        slowness = (1 + self.exposed_tensor_parallel) / self.efficiency
        return round(slowness, 3), self.parallel.model_parallel_size, -self.micro_batch_size

    def flags(self) -> str:
        """As `tools/pretrain.py` takes them."""
        names = [f"--micro-batch-size {self.micro_batch_size}"]
        default = ParallelConfig()
        for name, value in vars(self.parallel).items():
            if value == getattr(default, name):
                continue
            flag = "--" + name.replace("_", "-")
            shown = " ".join(value) if isinstance(value, tuple) else value
            names.append(flag if value is True else f"{flag} {shown}")
        return " ".join(names)


@dataclass(frozen=True, kw_only=True)
class PinConfig:
    """Parts of the layout that are decided already; the rest is searched."""

    tensor_model_parallel_size: int | None = None
    """Processes that share each weight matrix."""
    pipeline_model_parallel_size: int | None = None
    """Pipeline stages."""
    context_parallel_size: int | None = None
    """Processes that share each sequence; without it tried only where nothing else fits."""
    micro_batch_size: int | None = None
    """Windows per process in one pass."""
    recompute: str | None = None
    """none, mlp, block (as many whole layers as it takes) or full."""
    use_distributed_optimizer: bool | None = None
    """Also on one process; without it where several share an optimizer."""
    grad_reduce_in_bf16: bool = False
    """Gradients in bf16."""

    def __post_init__(self) -> None:
        if self.recompute is not None and self.recompute not in RECOMPUTATIONS:
            known = ", ".join(RECOMPUTATIONS)
            raise ConfigError(f"--recompute is {self.recompute!r}; expected one of {known}")


def pretended(gpu_name: str, gpu: Gpu) -> Installed:
    """A machine of the cluster: such a GPU, Transformer Engine, no apex."""
    return Installed(
        gpu=gpu_name, compute_capability=gpu.compute_capability, transformer_engine="assumed"
    )


def all_layouts(
    config: LMConfig,
    workload: Workload,
    here: Installed,
    gpus: int,
    limits: Limits,
    pins: PinConfig,
) -> list[Layout]:
    """Every layout of the search that the run itself would accept, fitting or not.

    Sequences are divided only where nothing else fits, or where that is pinned.
    """
    if pins.context_parallel_size is None:
        whole = replace(pins, context_parallel_size=1)
        found = all_layouts(config, workload, here, gpus, limits, whole)
        if any(layout.fits for layout in found):
            return found
    found = []
    for parallel, size, recompute in _candidates(workload, gpus, limits, pins):
        batch = replace(config.batch, micro_batch_size=size)
        try:
            changed = replace(config, parallel=parallel, batch=batch)
            check_settings(changed, workload.padded_vocab_size, gpus, here)
        except ConfigError:
            continue
        if recompute == "block":
            parallel = _fewest_recomputed(workload, parallel, size, gpus, limits)
        found.append(_weigh(workload, parallel, size, recompute, gpus, limits))
    return found


def _fewest_recomputed(
    workload: Workload, parallel: ParallelConfig, size: int, gpus: int, limits: Limits
) -> ParallelConfig:
    """The layout with the fewest layers of a stage computed again that fits, or with all."""
    replicas = parallel.data_parallel_size(gpus)

    def of(layers: int) -> ParallelConfig:
        return replace(parallel, recompute_num_layers=layers)

    def fits(layers: int) -> bool:
        return fullest_memory(workload, of(layers), size, replicas).peak <= limits.memory_bytes

    most = _layers_of_chunk(workload, parallel)
    return of(1 + bisect_left(range(1, most), True, key=fits))


def _layers_of_chunk(workload: Workload, parallel: ParallelConfig) -> int:
    virtual = parallel.num_virtual_stages_per_pipeline_rank
    return workload.model.num_layers // (parallel.pipeline_model_parallel_size * virtual)


def best(layouts: list[Layout]) -> Layout | None:
    """The fastest that fits, None if none does."""
    fitting = [layout for layout in layouts if layout.fits]
    return min(fitting, key=lambda layout: layout.rank, default=None)


def _candidates(
    workload: Workload, gpus: int, limits: Limits, pins: PinConfig
) -> Iterator[tuple[ParallelConfig, int, str]]:
    def choices(pinned: int | None, usual: list[int]) -> list[int]:
        return usual if pinned is None else [pinned]

    tensors = [size for size in _SIZES if size <= limits.gpus_per_node]
    layers = workload.model.num_layers
    stages = [size for size in range(1, 17) if layers % size == 0]
    modes = list(RECOMPUTATIONS) if pins.recompute is None else [pins.recompute]
    for tensor, stage, context, virtual, recompute in product(
        choices(pins.tensor_model_parallel_size, tensors),
        choices(pins.pipeline_model_parallel_size, stages),
        choices(pins.context_parallel_size, list(_SIZES)),
        (1, 2),
        modes,
    ):
        divided = tensor * stage * context
        if gpus % divided or (virtual > 1 and (stage == 1 or layers % (stage * virtual))):
            continue
        several = gpus > tensor * stage  # processes that share an optimizer
        parallel = ParallelConfig(
            tensor_model_parallel_size=tensor,
            pipeline_model_parallel_size=stage,
            context_parallel_size=context,
            num_virtual_stages_per_pipeline_rank=virtual,
            sequence_parallel=tensor > 1,
            use_distributed_optimizer=(
                several
                if pins.use_distributed_optimizer is None
                else pins.use_distributed_optimizer
            ),
            grad_reduce_in_bf16=pins.grad_reduce_in_bf16,
            overlap_grad_reduce=several,
            overlap_param_gather=several,
            **RECOMPUTATIONS[recompute],
        )
        for size in choices(pins.micro_batch_size, _micro_batches(workload, context)):
            yield parallel, size, recompute


def _micro_batches(workload: Workload, context: int) -> list[int]:
    """Powers of two up to the first that gives a GPU enough to do at a time."""
    sizes = [1]
    while sizes[-1] * workload.seq_length // context < _TOKENS_TO_FILL_A_GPU:
        sizes.append(2 * sizes[-1])
    return sizes


def _weigh(
    workload: Workload,
    parallel: ParallelConfig,
    micro_batch_size: int,
    recompute: str,
    gpus: int,
    limits: Limits,
) -> Layout:
    replicas = parallel.data_parallel_size(gpus)
    micro_batches = workload.global_batch_size // (micro_batch_size * replicas)
    memory = fullest_memory(workload, parallel, micro_batch_size, replicas)
    return Layout(
        parallel=parallel,
        micro_batch_size=micro_batch_size,
        data_parallel_size=replicas,
        micro_batches=micro_batches,
        recompute=recompute,
        memory=memory,
        fits=memory.peak <= limits.memory_bytes,
        bubble=bubble(parallel, micro_batches),
        recompute_flops=_recompute_flops(workload, parallel, recompute),
        exposed_tensor_parallel=_exposed(workload, parallel, limits),
    )


def bubble(parallel: ParallelConfig, micro_batches: int) -> float:
    """Share of a step in which a process of the pipeline has nothing to do."""
    waiting = parallel.pipeline_model_parallel_size - 1
    return waiting / (parallel.num_virtual_stages_per_pipeline_rank * micro_batches + waiting)


def _recompute_flops(workload: Workload, parallel: ParallelConfig, recompute: str) -> float:
    """Operations of the forward passes done again, over all of a step."""
    model, length = workload.model, workload.seq_length
    whole = model.train_flops_per_token(length, workload.padded_vocab_size)
    again = 0.0
    if recompute == "mlp":
        again = 2.0 * model.num_layers * 3 * model.hidden_size * model.ffn_hidden_size
    elif recompute in ("block", "full"):
        again = model.train_flops_per_token(length, 0) / 3
    if recompute == "block":
        again *= (parallel.recompute_num_layers or 0) / _layers_of_chunk(workload, parallel)
    return again / whole


def tensor_parallel_bytes_per_token(workload: Workload, parallel: ParallelConfig) -> float:
    """Bytes a process sends over tensor parallelism for one token of its micro-batches.

    With sequence parallelism four gathers or scatters in the forward pass of a layer, as many
    in the backward pass, and two gathers of what was kept divided.
    """
    tensor = parallel.tensor_model_parallel_size
    size = 2 if workload.precision.bf16 else 4
    rounds = 10 if parallel.sequence_parallel else 8
    layers = workload.model.num_layers / parallel.pipeline_model_parallel_size
    return rounds * layers * size * workload.model.hidden_size * (tensor - 1) / tensor


def _exposed(workload: Workload, parallel: ParallelConfig, limits: Limits) -> float:
    flops = workload.model.train_flops_per_token(workload.seq_length, workload.padded_vocab_size)
    shared = parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
    computing = flops / shared / (1e12 * limits.tflops)
    one_way = limits.gpu.link_gb_per_s * 1e9 / 2
    return tensor_parallel_bytes_per_token(workload, parallel) / one_way / computing
