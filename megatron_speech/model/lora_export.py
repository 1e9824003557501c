"""Adapters of a checkpoint for Hugging Face: merged into their base, or alone in peft's layout."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..io.files import read_yaml_object, write_json
from ..training.checkpoint import find
from ..training.megatron.checkpoint_check import BASE_KEY, LORA_KEY, base_identity
from .card import RUN_CONFIG
from .config import ModelConfig
from .families import EMBEDDING, OUTPUT, Rule, get_family, shape_in_megatron, split
from .lora_config import LoRAConfig
from .safetensors_folder import SINGLE
from .safetensors_writer import Output, write_shards
from .torch_dist import read_layer, read_whole, stored_dtype

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_ROWS = {EMBEDDING: "embedding_rows.weight", OUTPUT: "output_rows.weight"}


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """The adapters that a checkpoint folder holds, read layer by layer; needs a session."""

    directory: Path
    model: ModelConfig
    lora: LoRAConfig
    trained: tuple[int, int] | None
    """Ids whose rows of embedding and output layer are trained too."""
    dtype: torch.dtype
    """Of the adapters, and of the model they were trained in."""

    @classmethod
    def of_checkpoint(
        cls, directory: Path, model: ModelConfig, identity: dict[str, Any]
    ) -> "Adapters":
        """Those of a folder whose identity says that it holds adapters.

        Raises:
            CheckpointError: it does not hold them.
        """
        facts = identity[LORA_KEY]
        lora = LoRAConfig.of_identity(facts)
        *_, rule = next(lora.targets(model))
        dtype = stored_dtype(directory, f"{_key(rule)}.a")
        rows = tuple(facts["rows"]) if facts["rows"] else None
        return cls(directory=directory, model=model, lora=lora, trained=rows, dtype=dtype)

    @property
    def targets(self) -> list[Rule]:
        """Fused layers that have adapters."""
        return [rule for *_, rule in self.lora.targets(self.model)]

    def layer(self, index: int) -> dict[str, tuple[Tensor, Tensor]]:
        """A (rank, inputs) and B (outputs, rank) by Hugging Face's name of the weight."""
        shapes: dict[str, tuple[int, ...]] = {}
        rank = self.lora.rank
        for rule in self.targets:
            rows, width = shape_in_megatron(rule, self.model)
            stacked = 2 if rule.megatron == "mlp.linear_fc1.weight" else 1
            shapes[f"{_key(rule)}.a"] = (len(rule.huggingface) * rank, width)
            shapes[f"{_key(rule)}.b"] = (stacked, rows // stacked, rank)
        read = read_layer(self.directory, shapes, self.dtype, index, self.model.num_layers)
        found = {}
        for rule in self.targets:
            parts = read[f"{_key(rule)}.a"].split(rank)
            rows = split(rule, read[f"{_key(rule)}.b"].flatten(0, 1), self.model)
            for name, a, b in zip(rule.huggingface, parts, rows, strict=True):
                found[name] = (a, b)
        return found

    def merge(self, index: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A base layer's weights with its adapters added, computed in float32."""
        pairs = self.layer(index)
        merged = {name: weight.to(self.dtype) for name, weight in weights.items()}
        for name, (a, b) in pairs.items():
            added = self.lora.scale * (b.float() @ a.float())
            merged[name] = (merged[name].float() + added).to(self.dtype)
        return merged

    def merge_table(self, key: str, table: Tensor) -> Tensor:
        """A base's embedding or output layer with the trained rows in their places."""
        table = table.to(self.dtype)
        if self.trained is not None:
            first, stop = self.trained
            table[first:stop] = self._rows(key)
        return table

    def _rows(self, key: str) -> Tensor:
        assert self.trained is not None
        shape = (self.trained[1] - self.trained[0], self.model.hidden_size)
        return read_whole(self.directory, _ROWS[key], shape, self.dtype)

    def tensors(self) -> Iterator[Output]:
        """In peft's names, read when they are asked for."""
        family, rank = get_family(self.model), self.lora.rank
        layer = lru_cache(maxsize=1)(self.layer)  # its tensors are asked for one after the other
        prefix = "base_model.model."
        for key, module in self._tables().items():
            if self.trained is not None:
                name = f"{prefix}{module}.token_adapter.trainable_tokens_delta"
                shape = (self.trained[1] - self.trained[0], self.model.hidden_size)
                yield Output(name, shape, lambda k=key: self._rows(k))
        for index in range(self.model.num_layers):
            place = prefix + family.layer_prefix.format(index)
            for rule in self.targets:
                rows, width = shape_in_megatron(rule, self.model)
                for name, part in zip(
                    rule.huggingface,
                    split(rule, torch.empty(rows, 0), self.model),
                    strict=True,
                ):
                    for letter, which, shape in (
                        ("A", 0, (rank, width)),
                        ("B", 1, (len(part), rank)),
                    ):
                        yield Output(
                            place + name.replace(".weight", f".lora_{letter}.weight"),
                            shape,
                            lambda i=index, n=name, w=which: layer(i)[n][w],
                        )

    def _tables(self) -> dict[str, str]:
        """Hugging Face's modules of the embedding and of an output layer of its own."""
        family = get_family(self.model)
        found = {EMBEDDING: family.embedding.removesuffix(".weight")}
        if self.model.untie_embeddings_and_output_weights:
            found[OUTPUT] = family.output.removesuffix(".weight")
        return found

    def write(self, folder: Path, base_hf: str | None, run_config: Path) -> int:
        """Write peft's two files; returns the number of parameters.

        `base_hf` is what they say of the base; the run's config tells the dropout.
        """
        config = read_yaml_object(run_config) if run_config.exists() else {}
        dropout = (config.get("lora") or {}).get("lora_dropout", 0.0)
        parameters = write_shards(folder, self.tensors(), self.dtype, 1 << 62)
        (folder / SINGLE).rename(folder / WEIGHTS)
        names = {name for rule in self.targets for name in rule.huggingface}
        settings: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_hf,
            "inference_mode": True,
            "r": self.lora.rank,
            "lora_alpha": self.lora.lora_alpha,
            "lora_dropout": dropout,
            "use_rslora": self.lora.lora_rslora,
            "target_modules": sorted(name.split(".")[-2] for name in names),
            "bias": "none",
            "fan_in_fan_out": False,
        }
        if self.trained is not None:
            ids = [*range(*self.trained)]
            tables = [module.rpartition(".")[2] for module in self._tables().values()]
            settings["trainable_token_indices"] = dict.fromkeys(tables, ids)
        write_json(folder / CONFIG, settings)
        return parameters


def find_base(load: Path, given: Path | None, identity: dict[str, Any]) -> Path:
    """Checkpoint folder of the base that a run's adapters belong to.

    Raises:
        CheckpointError: it is not there, or another than the run was trained with.
    """
    config = load / RUN_CONFIG
    told = read_yaml_object(config).get("base") or {} if config.exists() else {}
    base = given or told.get("pretrained_checkpoint")
    found = find(Path(base)) if base is not None else None
    if found is None:
        raise CheckpointError(
            f"{load} holds adapters alone, and their base is not at {base}; give the folder it was "
            "trained with as --pretrained-checkpoint"
        )
    identified = base_identity(found[1])
    if identified != identity.get(BASE_KEY):
        raise CheckpointError(
            f"{found[1]} is not the base of the adapters in {load}: it is {identified}, and they "
            f"were trained with {identity.get(BASE_KEY)}; give that as --pretrained-checkpoint"
        )
    return found[1]


def _key(rule: Rule) -> str:
    return f"decoder.layers.{rule.megatron.removesuffix('.weight')}_lora"
