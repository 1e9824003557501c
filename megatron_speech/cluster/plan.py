"""What a pre-training run needs: parameters, memory by layout, time, GPU-hours and disk."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..data.config import DataConfig
from ..data.mixture import parse_count
from ..errors import ConfigError
from ..model.config import ModelConfig
from ..model.precision import PrecisionConfig, choose
from ..recipes.lm_recipes import RECIPES, LMConfig
from ..training.batch_config import BatchConfig
from ..training.devices import GPUS, Gpu
from ..training.loop_config import LoopConfig
from ..vocab import SpeechTextVocab
from .layouts import Layout, Limits, PinConfig, all_layouts, best, pretended
from .memory import Workload
from .rate import Rate, RateConfig, find_rate
from .stages import StageCosts, StagesConfig, stage_costs

_INT32_FROM = 65_500  # ids: core writes datasets of smaller vocabularies in two bytes


@dataclass(frozen=True, kw_only=True)
class RunPlanConfig:
    """A model, a token budget and GPUs."""

    model: ModelConfig = field(default_factory=ModelConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    rate: RateConfig = field(default_factory=RateConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    layout: PinConfig = field(default_factory=PinConfig)
    tokens: str
    """Tokens to train on: 1T, 300B."""
    gpu: str = "H100"
    """Kind of GPU (training/devices.py)."""
    gpus: int = 256
    """How many, for the choice of a layout."""
    gpu_counts: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """How many, for the table."""
    gpus_per_node: int = 8
    """Tensor parallelism stays within a node."""
    gpu_memory_gb: float | None = None
    """Memory of a GPU in 10^9 bytes, if not that of the data sheet."""
    reserve_gib: float = 4.0
    """Memory left to NCCL, workspaces and fragmentation."""
    vocab: Path | None = None
    """Vocabulary folder, for its padded size."""
    padded_vocab_size: int = 168_960
    """Rows of the embedding, without --vocab: GLM-4's tokens and 16,384 codes."""
    seq_length: int = 8192
    """Tokens in a window."""
    global_batch_size: int = 512
    """Windows in a step."""

    def __post_init__(self) -> None:
        parse_count(self.tokens)
        if self.gpu not in GPUS:
            raise ConfigError(f"--gpu {self.gpu} is unknown; choose of {', '.join(GPUS)}")
        counts = (self.gpus, *self.gpu_counts, self.gpus_per_node, self.padded_vocab_size)
        if min(counts) < 1:
            raise ConfigError("--gpus, --gpu-counts and the other sizes must be at least 1")
        if self.precision.fp8_format and GPUS[self.gpu].fp8_tflops is None:
            raise ConfigError(f"--gpu {self.gpu} does not compute in FP8; drop --fp8-format")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A number of GPUs, the layout to take there (None: none fits) and what comes of it."""

    gpus: int
    layout: Layout | None
    tokens_per_s_per_gpu: float = 0.0
    days: float = 0.0
    gpu_hours: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All of it; `assumptions` names every figure that was neither counted nor given."""

    parameters: int
    flops_per_token: float
    """Forward and backward pass, attention counted causally."""
    tokens: int
    steps: int
    memory_gib: float
    """What a process may use."""
    rate: Rate
    rows: tuple[Row, ...]
    chosen: Row
    layouts: tuple[Layout, ...]
    """All that a run on `chosen.gpus` would accept."""
    stages: StageCosts
    assumptions: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As dictionaries, for JSON; of the layouts the chosen ones."""
        found = asdict(self) | {"rows": [_plain_row(row) for row in self.rows]}
        del found["layouts"]
        return found | {"chosen": _plain_row(self.chosen)}


def _plain_row(row: Row) -> dict[str, Any]:
    if row.layout is None:
        return asdict(row)
    peak = {**asdict(row.layout.memory), "peak": row.layout.memory.peak}
    layout = asdict(row.layout) | {"memory": peak, "flags": row.layout.flags()}
    return asdict(row) | {"layout": layout}


def plan_recipes() -> dict[str, Callable[[], RunPlanConfig]]:
    """A plan's defaults for each recipe of a language model."""
    return {name: _from_recipe(recipe) for name, recipe in RECIPES.items()}


def _from_recipe(recipe: Callable[[], LMConfig]) -> Callable[[], RunPlanConfig]:
    def defaults() -> RunPlanConfig:
        config = recipe()
        length, batch = config.data.seq_length, config.batch.global_batch_size
        return RunPlanConfig(
            model=config.model,
            precision=config.precision,
            stages=StagesConfig(keep_last=config.loop.keep_last or 2),
            tokens=str(config.loop.train_iters * batch * length),
            seq_length=length,
            global_batch_size=batch,
        )

    defaults.__doc__ = recipe.__doc__
    return defaults


def make_plan(config: RunPlanConfig) -> Plan:
    """Count, search and multiply.

    Raises:
        ConfigError, VocabularyError: a setting cannot work; no layout is no error.
    """
    gpu, tokens = GPUS[config.gpu], parse_count(config.tokens)
    vocab_size = config.padded_vocab_size
    if config.vocab is not None:
        vocab_size = SpeechTextVocab.from_pretrained(config.vocab).padded_size
    flops = config.model.train_flops_per_token(config.seq_length, vocab_size)
    steps = -(-tokens // (config.global_batch_size * config.seq_length))
    rate = find_rate(config.rate, gpu, config.precision.fp8_format is not None)
    memory = 1e9 * (config.gpu_memory_gb or gpu.memory_gb) - config.reserve_gib * 2**30
    limits = Limits(
        gpu=gpu, gpus_per_node=config.gpus_per_node, memory_bytes=memory, tflops=rate.tflops
    )
    search = _Search(config, gpu, vocab_size, steps, limits)
    rows = tuple(_row(search, count, tokens, flops, rate) for count in config.gpu_counts)
    chosen = _row(search, config.gpus, tokens, flops, rate)
    parameters = config.model.num_parameters(vocab_size)
    bytes_a_token = 4 if vocab_size >= _INT32_FROM else 2
    stages = stage_costs(
        config.stages, tokens, parameters, config.precision.bf16, bytes_a_token, gpu
    )
    return Plan(
        parameters=parameters,
        flops_per_token=flops,
        tokens=tokens,
        steps=steps,
        memory_gib=memory / 2**30,
        rate=rate,
        rows=rows,
        chosen=chosen,
        layouts=tuple(search.layouts(config.gpus)),
        stages=stages,
        assumptions=(*_assumptions(config, rate), *stages.assumptions),
    )


class _Search:
    """Layouts by number of GPUs."""

    def __init__(
        self, config: RunPlanConfig, gpu: Gpu, vocab_size: int, steps: int, limits: Limits
    ):
        self._here, self._limits, self._pins = pretended(config.gpu, gpu), limits, config.layout
        self._run = LMConfig(
            model=config.model,
            data=DataConfig(seq_length=config.seq_length, mock_data=True),
            batch=BatchConfig(global_batch_size=config.global_batch_size),
            precision=config.precision,
            loop=LoopConfig(train_iters=steps),
        )
        self._workload = Workload(
            model=config.model,
            padded_vocab_size=vocab_size,
            seq_length=config.seq_length,
            global_batch_size=config.global_batch_size,
            precision=config.precision,
            implementation=choose(config.precision, self._here, vocab_size),
        )
        self._known: dict[int, list[Layout]] = {}

    def layouts(self, gpus: int) -> list[Layout]:
        """All that a run on so many GPUs would accept."""
        if gpus not in self._known:
            self._known[gpus] = all_layouts(
                self._run, self._workload, self._here, gpus, self._limits, self._pins
            )
        return self._known[gpus]


def _row(search: _Search, gpus: int, tokens: int, flops: float, rate: Rate) -> Row:
    layout = best(search.layouts(gpus))
    if layout is None:
        return Row(gpus=gpus, layout=None)
    share = 1.0 if rate.includes_layout else layout.efficiency
    per_gpu = 1e12 * rate.tflops * share / flops
    seconds = tokens / per_gpu / gpus
    return Row(
        gpus=gpus,
        layout=layout,
        tokens_per_s_per_gpu=per_gpu,
        days=seconds / 86_400,
        gpu_hours=seconds * gpus / 3600,
    )


def _assumptions(config: RunPlanConfig, rate: Rate) -> list[str]:
    notes = []
    if rate.is_assumed:
        notes.append(f"speed: {rate.tflops:,.0f} TFLOP/s/GPU: {rate.source}")
    notes.append(f"memory: {config.reserve_gib:g} GiB left to NCCL, workspaces and fragmentation")
    notes.append(
        "layers: Transformer Engine's with fused attention; tensor-parallel communication is "
        "weighed as if nothing of it were hidden, to choose a layout, and not taken off the speed"
    )
    if config.precision.fp8_format:
        notes.append("FP8: activations counted as bf16 (upper bound), two FP8 copies of matrices")
    return notes
