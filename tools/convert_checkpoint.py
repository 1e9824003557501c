"""Convert between Hugging Face folders and training checkpoints.

    python tools/convert_checkpoint.py hf-to-megatron --hf glm-4-9b --save runs/base \\
        --speech-tokenizer runs/tokenizer
    python tools/convert_checkpoint.py hf-to-megatron --hf glm-4-voice-9b --save runs/voice
    python tools/convert_checkpoint.py megatron-to-hf --load runs/lm --hf runs/lm/hf
    python tools/convert_checkpoint.py megatron-to-hf --load runs/sft --hf adapters --lora adapters

The first makes what `tools/pretrain.py --pretrained-checkpoint` starts from, its vocabulary
extended by speech codes; so does the second, of a model that has some. The third reads the newest
checkpoint of a run, saved under any layout. All work in one process with the memory of a layer.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import dataclass, field
    from pathlib import Path

    from megatron_speech import cli
    from megatron_speech.errors import ConfigError
    from megatron_speech.model.base_model import Import
    from megatron_speech.model.hf import Export, ExportForm, export_checkpoint
    from megatron_speech.recipes.base_import import BaseImportConfig, import_base_model


@dataclass(frozen=True, kw_only=True)
class MegatronToHF:
    """A run's newest checkpoint to a folder that transformers and vLLM load."""

    load: Path | None = None
    """Folder of the run."""
    hf: Path | None = None
    """Folder to write; an earlier export found there is replaced."""
    vocab: Path | None = None
    """Vocabulary folder; the run's own copy if not given."""
    form: ExportForm = field(default_factory=ExportForm)


def _hf_to_megatron() -> BaseImportConfig:
    """Import a base to start from (llama, mistral, qwen2, qwen3, olmo2, glm, released GLM-4)."""
    return BaseImportConfig()


def _megatron_to_hf() -> MegatronToHF:
    """Export the newest checkpoint of a run."""
    return MegatronToHF()


DIRECTIONS = {"hf-to-megatron": _hf_to_megatron, "megatron-to-hf": _megatron_to_hf}


def main(argv: Sequence[str] | None = None) -> Import | Export:
    """Convert as told and say what was written."""
    _, config = cli.parse_recipe(DIRECTIONS, argv, __doc__ or "")
    if isinstance(config, BaseImportConfig):
        done = import_base_model(config)
        print(
            f"{done.folder}: {done.model.family}, {done.parameters:,} parameters, "
            f"{done.added_rows:,} tokens added, vocabulary padded to "
            f"{done.vocab.padded_size:,}"
        )
        if (loss := done.text_loss) is not None:
            print(
                f"text loss of {loss.tokens:,} tokens: {loss.before:.4f} before, {loss.after:.4f} "
                f"with the new rows (scale {loss.scale:g}, without {loss.directions} directions, "
                f"lowered by {loss.shift:g} nats)"
            )
        return done
    if config.load is None or config.hf is None:
        raise ConfigError("--load and --hf are both needed")
    export = export_checkpoint(config.load, config.hf, config.vocab, config.form)
    print(f"{export.folder}: step {export.iteration}, {export.parameters:,} parameters")
    return export


if __name__ == "__main__":
    cli.run(main, starts_over=True)
