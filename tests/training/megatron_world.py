"""A tiny model, data and layouts for the megatron tests, and the ranks that run them."""

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.nn.utils import parameters_to_vector

from megatron_speech.io.files import write_json
from megatron_speech.model.config import ModelConfig
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.model.lora import add_lora
from megatron_speech.model.lora_config import LoRAConfig
from megatron_speech.model.precision import PrecisionConfig
from megatron_speech.model.trained_rows import start_rows
from megatron_speech.training.batch_config import BatchConfig
from megatron_speech.training.megatron import checkpoint as megatron_checkpoint
from megatron_speech.training.megatron.backend import MegatronTrainer, TrainingData
from megatron_speech.training.megatron.parallel import ParallelConfig, session

ROWS = (72, 120)
"""Of codes and a few specials, as they are trained beside adapters."""
VOCAB, CODE_OFFSET, NUM_CODES, LENGTH, STEPS = 128, 80, 40, 32, 20
MODEL = ModelConfig(
    num_layers=4,
    hidden_size=64,
    ffn_hidden_size=96,
    num_attention_heads=4,
    num_query_groups=2,
    max_position_embeddings=LENGTH,
)
# A rate at which roundings do not grow: with ten times of it, bf16 gradient norms of two layouts
# part by up to 32% within 20 steps (losses by less than 1%).
BATCH = BatchConfig(
    micro_batch_size=1, global_batch_size=4, lr=3e-4, lr_warmup_iters=2, eval_iters=1
)
IDENTITY = {"hidden_size": MODEL.hidden_size, "vocab": "tiny"}


@dataclass(frozen=True)
class Case:
    """One layout run by a group of ranks."""

    name: str
    ranks: tuple[int, ...]
    parallel: ParallelConfig
    bf16: bool = False

    @property
    def key(self) -> str:
        kind = "sharded" if self.parallel.use_distributed_optimizer else "whole"
        return f"{self.name}-{kind}{'-bf16' if self.bf16 else ''}"

    @property
    def reference(self) -> str:
        """Key of the run it must equal: one process without the distributed optimizer."""
        return f"1-whole{'-bf16' if self.bf16 else ''}"


def cases(bf16: bool = False) -> list[Case]:
    """The layouts, each with and without the distributed optimizer; one process comes first.

    Two groups of two ranks work side by side.
    """
    low, high, everyone = (0, 1), (2, 3), (0, 1, 2, 3)
    tensor, stages = {"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}
    overlap = {"overlap_grad_reduce": True, "ddp_bucket_size": 20_000}
    shapes = [
        ("1", (0,), {}),
        ("tp2", low, tensor),
        ("pp2", high, stages),
        ("tp2-sp", low, tensor | {"sequence_parallel": True}),
        ("dp2", high, {}),
        ("pp2-vpp2", low, stages | {"num_virtual_stages_per_pipeline_rank": 2}),
        ("tp2-pp2", everyone, tensor | stages),
        ("tp2-dp2", everyone, tensor),
        ("dp2-overlap", high, overlap),
        ("pp2-dp2-overlap", everyone, stages | overlap),
        ("tp2-dp2-overlap", everyone, tensor | overlap),
        (
            "pp2-vpp2-dp2-overlap",
            everyone,
            stages | overlap | {"num_virtual_stages_per_pipeline_rank": 2},
        ),
    ]
    return [
        Case(name, ranks, _config(shape, sharded), bf16)
        for sharded in (False, True)
        for name, ranks, shape in shapes
    ]


def _config(shape: dict, sharded: bool) -> ParallelConfig:
    gather = sharded and shape.get("overlap_grad_reduce", False)
    return ParallelConfig(**shape, use_distributed_optimizer=sharded, overlap_param_gather=gather)


def fast_cases() -> list[Case]:
    """All layouts in fp32, and in bf16 the two whose parts differ most."""
    few = ("1-whole-bf16", "tp2-sp-sharded-bf16", "pp2-vpp2-sharded-bf16")
    return cases() + [case for case in cases(bf16=True) if case.key in few]


def deviation(found: dict, expected: dict, name: str) -> float:
    """Largest relative difference of a metric over the steps."""
    assert len(found["steps"]) == STEPS
    pairs = zip(found["steps"], expected["steps"], strict=True)
    return max(abs(a[name] - b[name]) / abs(b[name]) for a, b in pairs)


class Windows:
    """Endless random windows, a pure function of their index; some hold two documents."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(0, CODE_OFFSET + NUM_CODES, (LENGTH + 1,), generator=generator)
        documents = torch.zeros(LENGTH, dtype=torch.long)
        if index % 3 == 0:
            documents[LENGTH // 2 :] = 1
        return {
            "tokens": ids[:-1],
            "labels": ids[1:],
            "loss_mask": (torch.rand(LENGTH, generator=generator) > 0.25).float(),
            "position_ids": torch.arange(LENGTH),
            "documents": documents,
        }


@dataclass(frozen=True, kw_only=True)
class Run:
    """What to do with a trainer: take weights or a whole state, step, keep the result."""

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    weights: Path | None = None
    resume: Path | None = None
    first: int = 0
    last: int = STEPS
    save: Path | None = None
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    tensors: bool = True
    """Keep weights and logits too, where one process holds them."""
    in_background: bool = False
    """Save by a process of its own."""
    go_on: int | None = None
    """Behind `save`: train up to this step, go back to what was saved, and do the same `again`."""
    batch: dict[str, Any] = field(default_factory=dict)
    """Further settings."""
    packed: bool = True
    """Some windows hold two documents that do not see each other."""
    model: ModelConfig = MODEL
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    base: Path | None = None
    """Weights that adapters belong to."""


def run(task: Run) -> dict:
    """Train `first`..`last`: losses and gradient norms; in one process weights and logits too."""
    background, fresh = task.in_background, task.weights is not None
    config = replace(BATCH, no_load_optim=fresh, async_save=background, **task.batch)
    with session(task.parallel, seed=7) as layout:
        options = BuildOptions(padded_vocab_size=VOCAB, precision=task.precision)
        chunks = build_model(task.model, task.parallel, options)
        if task.lora.lora_rank is not None:
            rows = ROWS if task.lora.lora_train_embedding else None
            add_lora(chunks, task.model, task.lora, rows, seed=7)
        trainer = MegatronTrainer(
            chunks,
            TrainingData(
                train=Windows(),
                valid={"": Windows()},
                seq_length=LENGTH,
                code_offset=CODE_OFFSET,
                num_codes=NUM_CODES,
                separate_documents=task.packed,
            ),
            config,
            task.parallel,
            layout,
            train_iters=40,
            identity=IDENTITY,
        )
        if task.base is not None:
            megatron_checkpoint.start_from(trainer, task.base)
            start_rows(trainer.chunks)
            trainer.optimizer.reload_model_params()
        source = task.weights or task.resume
        if source is not None:
            trainer.load(source, own=not fresh)
        steps = [trainer.train_step(index) for index in range(task.first, task.last)]
        validation = trainer.evaluate(task.last)
        if task.save is not None:
            if layout.is_main_rank:
                task.save.mkdir(parents=True)
            trainer.any_rank(False)
            pending = trainer.save(task.save)
            if pending is not None:
                pending.done(wait=True)
        result = {"steps": steps, "validation": validation}
        if task.go_on is not None and task.save is not None:
            ahead = range(task.last, task.go_on)
            for index in ahead:
                trainer.train_step(index)
            trainer.load(task.save)
            result["again"] = [trainer.train_step(index) for index in ahead]
        if layout.world_size == 1 and task.tensors:
            chunk = trainer.chunks[0].module
            result["weights"] = parameters_to_vector(chunk.parameters()).detach().float()
            tokens = Windows()[0]["tokens"][None].to(layout.device) % (VOCAB - 8)
            positions = torch.arange(LENGTH, device=layout.device)[None]
            with torch.no_grad():
                result["logits"] = chunk(tokens, positions, None)
    return result


_TP2 = ("tp2", (0, 1), {"tensor_model_parallel_size": 2})
_PP2 = {"pipeline_model_parallel_size": 2}
_OF_ANY_KIND: list[tuple[str, tuple[int, ...], dict[str, int]]] = [
    ("tp2-pp2", (0, 1, 2, 3), {"tensor_model_parallel_size": 2, **_PP2}),
    ("1", (0,), {}),
    ("dp2", (0, 1), {}),
    _TP2,
    ("pp2-vpp2", (0, 1), {**_PP2, "num_virtual_stages_per_pipeline_rank": 2}),
]
_OF_DATA: list[tuple[str, tuple[int, ...], dict[str, int]]] = [
    ("dp2", (0, 1), {}),
    ("1", (0,), {}),
    ("dp4", (0, 1, 2, 3), {}),
    ("dp2-again", (2, 3), {}),
]


@dataclass(frozen=True)
class Chain:
    """Layouts that hand one run on to one another, two steps each."""

    name: str
    layouts: list[tuple[str, tuple[int, ...], dict[str, int]]]
    parallel: dict[str, bool]
    batch: dict[str, bool] = field(default_factory=dict)
    then: dict[str, dict[str, bool]] = field(default_factory=dict)
    """Other settings of some layouts, by name."""
    in_background: bool = False

    def batch_of(self, layout: str) -> dict[str, bool]:
        """Settings of a layout."""
        return self.then.get(layout, self.batch)

    @property
    def alone(self) -> Run:
        """All steps in one process."""
        parallel = ParallelConfig(**self.parallel)
        return Run(parallel=parallel, batch=self.batch, last=2 * len(self.layouts))


_SHARDED = {"use_distributed_optimizer": True}
CHAINS = [
    Chain("whole", _OF_ANY_KIND, {}),
    Chain("gathered", _OF_ANY_KIND, _SHARDED),
    Chain(
        "gathered-by-one",
        [*_OF_DATA, _TP2],
        _SHARDED,
        {"distrib_optim_fully_reshardable_mem_efficient": True},
    ),
    # buckets of their own where gradients overlap; at last gathered, for any layout
    Chain(
        "not-gathered",
        [*_OF_DATA, ("gathered", (0, 1), {}), ("tp2", (0, 1, 2, 3), _TP2[2])],
        {**_SHARDED, "overlap_grad_reduce": True, "ddp_bucket_size": 20_000},
        {"dist_ckpt_optim_fully_reshardable": False},
        {"gathered": {}, "tp2": {}},
        in_background=True,
    ),
]
"""One for each way to store an optimizer."""


def hand_on(rank: int, folder: Path, weights: Path) -> None:
    """Run `CHAINS`; each layout saves what it loaded, and what two more steps made of it."""
    torch.set_num_threads(1)
    for chain in CHAINS:
        place = folder / chain.name
        place.mkdir(exist_ok=True)
        for index, (name, ranks, shape) in enumerate(chain.layouts):
            if rank not in ranks:
                continue
            store = dist.FileStore(str(place / f"{name}.store"), len(ranks))
            dist.init_process_group(
                "gloo", store=store, rank=ranks.index(rank), world_size=len(ranks)
            )
            parallel = ParallelConfig(**shape, **chain.parallel)
            task = Run(
                parallel=parallel,
                batch=chain.batch_of(name),
                tensors=False,
                first=2 * index,
                in_background=chain.in_background,
            )
            if index:
                _wait_for(place / f"{chain.layouts[index - 1][0]}.json")
                task = replace(task, resume=place / chain.layouts[index - 1][0])
                run(replace(task, last=task.first, save=place / f"{name}-read"))
            else:
                task = replace(task, weights=weights)
            result = run(replace(task, last=task.first + 2, save=place / name))
            dist.destroy_process_group()
            if rank == ranks[0]:
                write_json(place / f"{name}.json", result["steps"])


def _wait_for(path: Path) -> None:
    """Until other ranks have written it."""
    for _ in range(6000):  # spawn ends who waits if another rank fails
        if path.exists():
            return
        time.sleep(0.1)
    raise TimeoutError(path)


def main(rank: int, folder: Path, weights: Path, chosen: list[Case]) -> None:
    """Run all cases this rank takes part in; the first rank of each writes `<key>.json`."""
    torch.set_num_threads(1)
    for case in chosen:
        if rank not in case.ranks:
            continue
        store = dist.FileStore(str(folder / f"{case.key}.store"), len(case.ranks))
        dist.init_process_group(
            "gloo", store=store, rank=case.ranks.index(rank), world_size=len(case.ranks)
        )
        saved = case.name in ("tp2-pp2", "dp2-overlap") and not case.bf16
        save = folder / case.key if saved else None
        precision = PrecisionConfig(bf16=case.bf16)
        task = Run(parallel=case.parallel, weights=weights, save=save, precision=precision)
        result = run(replace(task, tensors=False))
        dist.destroy_process_group()
        if rank == case.ranks[0]:
            (folder / f"{case.key}.json").write_text(json.dumps(result))


def spawn(folder: Path, weights: Path, chosen: list[Case]) -> dict[str, dict]:
    """Run the cases by four ranks that change from layout to layout; results by key."""
    torch.multiprocessing.spawn(main, args=(folder, weights, chosen), nprocs=4)
    return {case.key: json.loads((folder / f"{case.key}.json").read_text()) for case in chosen}
