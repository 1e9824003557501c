"""Adapters of the tiny model under every layout, trained by the ranks that take part."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

from megatron_speech.model.config import ModelConfig
from megatron_speech.model.lora_config import LoRAConfig
from megatron_speech.training.megatron.parallel import ParallelConfig
from tests.training.megatron_world import MODEL, Run, run

TIED, UNTIED = MODEL, replace(MODEL, untie_embeddings_and_output_weights=True)
LORA = LoRAConfig(lora_rank=4, lora_train_embedding=True)
BATCH = {"lr": 3e-3}
STEPS = 5
_SHARDED, _SP = {"use_distributed_optimizer": True}, {"sequence_parallel": True}
_TP2, _PP2 = {"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}
_OVERLAP = {"overlap_grad_reduce": True, "ddp_bucket_size": 5_000}
_LOW, _HIGH, _ALL = (0, 1), (2, 3), (0, 1, 2, 3)


@dataclass(frozen=True)
class Case:
    """A model's adapters trained by a group of ranks."""

    name: str
    ranks: tuple[int, ...]
    parallel: ParallelConfig
    tied: bool
    save: bool = False

    @property
    def key(self) -> str:
        return f"{self.name}-{'tied' if self.tied else 'untied'}"

    @property
    def model(self) -> ModelConfig:
        return TIED if self.tied else UNTIED


def cases() -> list[Case]:
    """Layouts that divide adapters and rows in every way, of both kinds of model."""
    gather = _SHARDED | _OVERLAP | {"overlap_param_gather": True}
    virtual = _PP2 | {"num_virtual_stages_per_pipeline_rank": 2}
    shapes = [
        ("tp2", _LOW, False, _TP2),
        ("tp2-sp-sharded", _HIGH, True, _TP2 | _SP | _SHARDED),
        ("pp2", _LOW, False, _PP2),
        ("dp2-overlap", _HIGH, True, gather),
        ("pp2-vpp2-sharded", _LOW, True, virtual | _SHARDED),
        ("tp2-sp", _HIGH, False, _TP2 | _SP),
        ("tp4", _ALL, False, {"tensor_model_parallel_size": 4}),
        ("tp2-pp2-sp", _ALL, True, _TP2 | _PP2 | _SP),
        ("pp2-dp2-overlap", _ALL, True, _PP2 | gather),
    ]
    return [
        Case(name, ranks, ParallelConfig(**shape), tied, save=name in ("tp2-pp2-sp", "tp4"))
        for name, ranks, tied, shape in shapes
    ]


def main(rank: int, folder: Path, chosen: list[Case]) -> None:
    """Run all cases this rank takes part in; the first rank of each writes `<key>.json`."""
    torch.set_num_threads(1)
    for case in (case for case in chosen if rank in case.ranks):
        size = len(case.ranks)
        store = dist.FileStore(str(folder / f"{case.key}.store"), size)
        dist.init_process_group("gloo", store=store, rank=case.ranks.index(rank), world_size=size)
        task = Run(
            parallel=case.parallel,
            model=case.model,
            lora=LORA,
            base=folder / f"base-{'tied' if case.tied else 'untied'}",
            batch=BATCH,
            save=folder / case.key if case.save else None,
            last=STEPS,
            tensors=False,
        )
        result = run(task)
        dist.destroy_process_group()
        if rank == case.ranks[0]:
            (folder / f"{case.key}.json").write_text(json.dumps(result))


def spawn(folder: Path) -> dict[str, dict]:
    """Run all cases by four ranks; results by key."""
    torch.multiprocessing.spawn(main, args=(folder, cases()), nprocs=4)
    return {case.key: json.loads((folder / f"{case.key}.json").read_text()) for case in cases()}
