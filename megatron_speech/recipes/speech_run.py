"""How trainings of speech tokenizers and of speech decoders begin and end."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ..io.files import write_text
from ..model.card import RUN_CONFIG
from ..training.ddp import process_group
from ..training.megatron.parallel import is_launched_main_rank
from ..training.reporting import read_metrics
from .resume import check_resume


@dataclass(frozen=True, kw_only=True)
class SpeechResult:
    """How a training ended."""

    export: Path | None
    """Folder of the finished model, for its `from_pretrained`; None if it stopped early."""
    finished: bool
    """False if it was stopped and should be started again."""
    metrics: dict[str, float]
    """Figures of the last evaluation; of a speech tokenizer `wer`, `ctc wer`, `codebook usage`
    and `perplexity`, each followed by the name of the set."""


@contextmanager
def begun(save: Path, settings: dict[str, Any], seed: int) -> Iterator[torch.device]:
    """Join the processes of a training into `save` and seed it; yields this process's device.

    `settings` are kept in the folder, and what changed of them since is said.

    Raises:
        ConfigError: the seed changed.
    """
    note = check_resume(save, settings)
    with process_group() as device:
        if is_launched_main_rank():
            print(note or "", end="\n" if note else "", flush=True)
            write_text(save / RUN_CONFIG, yaml.safe_dump(settings, sort_keys=False))
        torch.manual_seed(seed)
        yield device


def result_of(save: Path, finished: bool) -> SpeechResult:
    """Figures come from the run's file, so that a run already finished tells the same."""
    records = read_metrics(save, "valid")
    figures = {k: v for k, v in records[-1].items() if isinstance(v, float)} if records else {}
    return SpeechResult(
        export=save / "export" if finished else None, finished=finished, metrics=figures
    )
