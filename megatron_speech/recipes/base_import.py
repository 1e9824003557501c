"""A base model's import that lays its new rows out as a speech tokenizer does its codes."""

from dataclasses import dataclass
from pathlib import Path

from ..model.base_model import Import, ImportConfig, import_base
from ..speech_tokenizer.tokenizer import code_points


@dataclass(frozen=True, kw_only=True)
class BaseImportConfig(ImportConfig):
    """A Hugging Face folder to a checkpoint that training starts from."""

    speech_tokenizer: Path | None = None
    """Speech tokenizer whose codes are added, in place of --num-codes. Codes that sound alike then
    start with rows that are alike, from which training learns many times faster."""


def import_base_model(config: BaseImportConfig) -> Import:
    """`model.base_model.import_base`, with the codes of `config.speech_tokenizer`.

    Raises what that does, and:
        CheckpointError: the speech tokenizer's folder is none, or damaged.
        ConfigError: it was trained without quantization.
    """
    return import_base(config, code_points(config.speech_tokenizer))
