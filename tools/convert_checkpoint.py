"""Convert between training checkpoints and Hugging Face folders.

    python tools/convert_checkpoint.py megatron-to-hf --load runs/lm --hf runs/lm/hf

Reads the newest checkpoint of the run, saved under any layout, in one process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_speech import cli
from megatron_speech.errors import ConfigError
from megatron_speech.model.hf import Export, export_checkpoint


@dataclass(frozen=True, kw_only=True)
class MegatronToHF:
    """A run's newest checkpoint to a folder that transformers and vLLM load."""

    load: Path | None = None
    """Folder of the run."""
    hf: Path | None = None
    """Folder to write; replaced if it exists."""
    vocab: Path | None = None
    """Vocabulary folder; the run's own copy if not given."""


def _megatron_to_hf() -> MegatronToHF:
    """Export the newest checkpoint of a run."""
    return MegatronToHF()


DIRECTIONS = {"megatron-to-hf": _megatron_to_hf}


def main(argv: Sequence[str] | None = None) -> Export:
    """Convert as told and say what was written."""
    _, config = cli.parse_recipe(DIRECTIONS, argv, __doc__ or "")
    if config.load is None or config.hf is None:
        raise ConfigError("--load and --hf are both needed")
    export = export_checkpoint(config.load, config.hf, config.vocab)
    print(f"{export.folder}: step {export.iteration}, {export.parameters:,} parameters")
    return export


if __name__ == "__main__":
    cli.run(main)
