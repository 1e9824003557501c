"""A run that starts from the weights of another: shape, vocabulary and step 0."""

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, flag
from ..model.card import RUN_CONFIG
from ..model.code_rows import CodePoints
from ..model.config import TRAINING_ONLY, ModelConfig
from ..model.trained_rows import start_rows
from ..speech_tokenizer.tokenizer import code_points
from ..training.checkpoint import iteration_directory, latest_iteration
from ..training.megatron import checkpoint as megatron_checkpoint
from ..training.megatron.checkpoint_check import base_identity


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """What a new run starts from."""

    pretrained_checkpoint: Path | None = None
    """Folder of an imported base model or of another run: the shape of the model, its first weights
    and, without --vocab, the vocabulary are taken from it; optimizer and schedule start anew."""
    speech_tokenizer: Path | None = None
    """Speech tokenizer that made the codes, for a model that starts from random weights: rows of
    codes that sound alike then are alike, from which training learns many times faster. An import
    of a base model takes it itself."""

    def __post_init__(self) -> None:
        if self.pretrained_checkpoint is not None and self.speech_tokenizer is not None:
            raise ConfigError(
                "--speech-tokenizer is for a model that starts from random weights; drop it, or "
                "give it to the import (tools/convert_checkpoint.py hf-to-megatron)"
            )

    def codes(self, save: Path) -> CodePoints | None:
        """Where the codes of a new run lie, if that is to be used; None for one that goes on.

        Raises:
            CheckpointError, ConfigError: the folder holds no speech tokenizer with codes.
        """
        return code_points(self.speech_tokenizer) if latest_iteration(save) is None else None

    def source(self, save: Path | None) -> Path | None:
        """Folder that shape and vocabulary come from: the run's own, once it has a checkpoint."""
        if self.pretrained_checkpoint is None:
            return None
        if save is not None and latest_iteration(save) is not None:
            return save
        self._directory()
        return self.pretrained_checkpoint

    def load_weights(self, trainer: Any, save: Path, stays: bool = False) -> None:
        """Give a trainer the weights of the base, unless `save` holds a run to continue.

        Where the base `stays` beside adapters, they are read in any case: what the run saves holds
        none of them.

        Raises:
            CheckpointError: the base is of another vocabulary, or damaged.
        """
        if self.pretrained_checkpoint is None:
            return
        if not stays and latest_iteration(save) is not None:
            return
        megatron_checkpoint.start_from(trainer, self._directory())
        if stays:
            start_rows(trainer.chunks)
            trainer.optimizer.reload_model_params()
        if trainer.is_main_rank:
            print(f"starting from the weights in {self._directory()}", flush=True)

    def identity(self) -> str:
        """Which checkpoint adapters belong to.

        Raises:
            ConfigError: there is none.
            CheckpointError: it is damaged.
        """
        return base_identity(self._directory())

    def _directory(self) -> Path:
        run = self.pretrained_checkpoint
        iteration = None if run is None else latest_iteration(run)
        if run is None or iteration is None:
            raise ConfigError(f"--pretrained-checkpoint {run}: no checkpoint found there")
        return iteration_directory(run, iteration)


def shape_of(run: Path, model: ModelConfig, given: Collection[str] = ()) -> ModelConfig:
    """The shape of the model in a run's folder, with dropout as in `model`.

    Raises:
        ConfigError: the folder does not tell it, or `model` differs in a field of `given`.
    """
    path = run / RUN_CONFIG
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
        found = ModelConfig.from_mapping(stored)
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} does not tell the shape of the model ({error!r}); give "
            "--pretrained-checkpoint a folder made by tools/convert_checkpoint.py hf-to-megatron "
            "or by tools/pretrain.py"
        ) from None
    differing = [
        f"{flag(field.name)} is {getattr(model, field.name)}, there {getattr(found, field.name)}"
        for field in fields(model)
        if field.name in given
        and field.name not in TRAINING_ONLY
        and getattr(model, field.name) != getattr(found, field.name)
    ]
    if differing:
        raise ConfigError(
            f"the model's shape is that of {run} (--pretrained-checkpoint): "
            f"{'; '.join(differing)}; drop what differs"
        )
    return replace(found, **{name: getattr(model, name) for name in TRAINING_ONLY})
