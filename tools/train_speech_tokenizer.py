"""Train a speech tokenizer: Whisper's encoder with pooling and a codebook inside.

    python tools/train_speech_tokenizer.py tokenizer-debug \\
        --manifest speech/train/manifest.parquet --valid-manifest speech/valid/manifest.parquet \\
        --save runs/speech_tokenizer

The finished tokenizer lies in SAVE/export, the best one so far, by word errors on the first
--valid-manifest, in SAVE/best. Run the same command again to continue a stopped training. Under
torchrun every process trains on its share of each batch:

    torchrun --standalone --nproc-per-node 8 tools/train_speech_tokenizer.py \\
        tokenizer-large-v3-12.5hz --init-from whisper-large-v3 \\
        --manifest transcribed.parquet pseudo_labelled.parquet --manifest-weights 1 3 \\
        --valid-manifest valid.parquet --save runs/large
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence

    from megatron_speech import cli
    from megatron_speech.recipes.speech_run import SpeechResult
    from megatron_speech.recipes.speech_tokenizer import RECIPES
    from megatron_speech.recipes.speech_tokenizer_run import train_speech_tokenizer


def main(argv: Sequence[str] | None = None) -> SpeechResult:
    """Train the recipe named on the command line."""
    _, recipe = cli.parse_recipe(RECIPES, argv, __doc__ or "")
    return train_speech_tokenizer(recipe)


if __name__ == "__main__":
    cli.run(main)
