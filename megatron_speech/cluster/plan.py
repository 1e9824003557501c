"""What a pre-training run needs: parameters, memory by layout, time, GPU-hours and disk."""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..data.config import DataConfig
from ..data.mixture import parse_count
from ..errors import ConfigError
from ..model.config import ModelConfig
from ..model.lora_config import LoRAConfig, added_rows
from ..model.precision import PrecisionConfig, choose
from ..recipes.base_model import BaseConfig
from ..recipes.lm_recipes import LMConfig
from ..text.vocab import DEFAULT_SPECIALS, SpeechTextVocab
from ..training.batch_config import BatchConfig
from ..training.devices import GPUS, Gpu
from ..training.loop_config import LoopConfig
from ..training.optimizer_types import OptimizerTypes
from .layouts import Layout, Limits, PinConfig, all_layouts, best, pretended
from .memory import Workload
from .rate import Rate, RateConfig, find_rate
from .stages import StageCosts, StagesConfig, stage_costs

_ADDED_ROWS = 16_384 + len(DEFAULT_SPECIALS)
_INT32_FROM = 65_500  # ids: core writes datasets of smaller vocabularies in two bytes


@dataclass(frozen=True, kw_only=True)
class RunPlanConfig:
    """A model, a token budget and GPUs."""

    model: ModelConfig = field(default_factory=ModelConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    rate: RateConfig = field(default_factory=RateConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    layout: PinConfig = field(default_factory=PinConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    optimizer: OptimizerTypes = field(default_factory=OptimizerTypes)
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

    @property
    def trained_rows(self) -> int:
        """Rows of each table that are trained beside adapters."""
        if not self.lora.lora_train_embedding:
            return 0
        if self.vocab is None:
            return _ADDED_ROWS
        first, stop = added_rows(SpeechTextVocab.from_pretrained(self.vocab))
        return stop - first

    @property
    def memory(self) -> float:
        """Bytes that a process may use."""
        given = self.gpu_memory_gb or GPUS[self.gpu].memory_gb
        return 1e9 * given - self.reserve_gib * 2**30


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """A number of GPUs, the layout to take there (None: none fits) and what comes of it."""

    gpus: int
    layout: Layout | None
    tokens_per_s_per_gpu: float = 0.0
    days: float = 0.0
    gpu_hours: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """All of it; `assumptions` names every figure that was neither counted nor given."""

    parameters: int
    flops_per_token: float
    """Forward and backward pass, attention counted causally."""
    tokens: int
    steps: int
    memory_gib: float
    """What a process may use."""
    rate: Rate
    rows: tuple[PlanRow, ...]
    chosen: PlanRow
    layouts: tuple[Layout, ...]
    """All that a run on `chosen.gpus` would accept."""
    stages: StageCosts
    assumptions: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As dictionaries, for JSON; of the layouts the chosen ones."""
        found = asdict(self) | {"rows": [_plain_row(row) for row in self.rows]}
        del found["layouts"]
        return found | {"chosen": _plain_row(self.chosen)}


def _plain_row(row: PlanRow) -> dict[str, Any]:
    if row.layout is None:
        return asdict(row)
    peak = {**asdict(row.layout.memory), "peak": row.layout.memory.peak}
    layout = asdict(row.layout) | {"memory": peak, "flags": row.layout.flags()}
    return asdict(row) | {"layout": layout}


def plan_of(run: LMConfig) -> RunPlanConfig:
    """A plan's defaults for a run."""
    length, batch = run.data.seq_length, run.batch.global_batch_size
    return RunPlanConfig(
        model=run.model,
        precision=run.precision,
        lora=run.lora,
        optimizer=OptimizerTypes(
            **{field.name: getattr(run.batch, field.name) for field in fields(OptimizerTypes)}
        ),
        stages=StagesConfig(keep_last=run.loop.keep_last or 2),
        tokens=str(run.loop.train_iters * batch * length),
        seq_length=length,
        global_batch_size=batch,
    )


def make_plan(config: RunPlanConfig) -> RunPlan:
    """Count, search and multiply.

    Raises:
        ConfigError, VocabularyError: a setting cannot work; no layout is no error.
    """
    gpu, tokens = GPUS[config.gpu], parse_count(config.tokens)
    vocab_size = config.padded_vocab_size
    if config.vocab is not None:
        vocab_size = SpeechTextVocab.from_pretrained(config.vocab).padded_size
    flops = config.lora.train_flops_per_token(config.model, config.seq_length, vocab_size)
    steps = -(-tokens // (config.global_batch_size * config.seq_length))
    rate = find_rate(config.rate, gpu, config.precision.fp8_format is not None)
    layouts = _layouts(config, gpu, vocab_size, steps, rate.tflops)
    counts = (*config.gpu_counts, config.gpus)
    *rows, chosen = (_row(layouts[count], count, tokens, flops, rate) for count in counts)
    parameters = config.model.num_parameters(vocab_size)
    trained = parameters
    if config.lora.lora_rank is not None:
        tables = 1 + config.model.untie_embeddings_and_output_weights
        trained = config.lora.num_parameters(config.model)
        trained += config.trained_rows * tables * config.model.hidden_size
    bytes_a_token = 4 if vocab_size >= _INT32_FROM else 2
    stages = stage_costs(config.stages, tokens, trained, config.precision.bf16, bytes_a_token, gpu)
    return RunPlan(
        parameters=parameters,
        flops_per_token=flops,
        tokens=tokens,
        steps=steps,
        memory_gib=config.memory / 2**30,
        rate=rate,
        rows=tuple(rows),
        chosen=chosen,
        layouts=tuple(layouts[config.gpus]),
        stages=stages,
        assumptions=(*_assumptions(config, rate), *stages.assumptions),
    )


def layouts_of(config: RunPlanConfig) -> list[Layout]:
    """All layouts that a run on `config.gpus` would accept, fitting or not."""
    alone = replace(config, gpu_counts=(config.gpus,))
    rate = find_rate(config.rate, GPUS[config.gpu], config.precision.fp8_format is not None)
    found = _layouts(alone, GPUS[config.gpu], config.padded_vocab_size, 1000, rate.tflops)
    return found[config.gpus]


def _layouts(
    config: RunPlanConfig, gpu: Gpu, vocab_size: int, steps: int, tflops: float
) -> dict[int, list[Layout]]:
    """All layouts that a run would accept, by number of GPUs."""
    here = pretended(config.gpu, gpu)
    run = LMConfig(
        model=config.model,
        data=DataConfig(seq_length=config.seq_length, mock_data=True),
        batch=BatchConfig(global_batch_size=config.global_batch_size, **asdict(config.optimizer)),
        precision=config.precision,
        base=BaseConfig(pretrained_checkpoint=Path("base")),
        lora=config.lora,
        loop=LoopConfig(train_iters=steps),
    )
    workload = Workload(
        model=config.model,
        padded_vocab_size=vocab_size,
        seq_length=config.seq_length,
        global_batch_size=config.global_batch_size,
        precision=config.precision,
        implementation=choose(config.precision, here, vocab_size),
        optimizer=config.optimizer,
        lora=config.lora,
        trained_rows=config.trained_rows,
    )
    limits = Limits(
        gpu=gpu, gpus_per_node=config.gpus_per_node, memory_bytes=config.memory, tflops=tflops
    )
    return {
        gpus: all_layouts(run, workload, here, gpus, limits, config.layout)
        for gpus in {config.gpus, *config.gpu_counts}
    }


def _row(layouts: list[Layout], gpus: int, tokens: int, flops: float, rate: Rate) -> PlanRow:
    layout = best(layouts)
    if layout is None:
        return PlanRow(gpus=gpus, layout=None)
    share = 1.0 if rate.includes_layout else layout.efficiency
    per_gpu = 1e12 * rate.tflops * share / flops
    seconds = tokens / per_gpu / gpus
    return PlanRow(
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
    if config.trained_rows and config.vocab is None:
        notes.append(f"LoRA: {config.trained_rows:,} added rows of each table are trained")
    if config.precision.fp8_format:
        notes.append("FP8: activations counted as bf16 (upper bound), two FP8 copies of matrices")
    return notes
