"""Train a speech decoder: a flow model from codes to spectrograms, and its vocoder.

    python tools/train_speech_decoder.py vocoder-debug --manifest speech/train/manifest.parquet \\
        --valid-manifest speech/valid/manifest.parquet --save runs/vocoder
    python tools/train_speech_decoder.py decoder-debug --manifest speech/train/manifest.parquet \\
        --valid-manifest speech/valid/manifest.parquet --codes codes/train codes/valid \\
        --vocoder runs/vocoder/export --save runs/decoder

Then, as the paper does, one good voice, which also learns to start early:

    python tools/train_speech_decoder.py decoder-debug-voice --voice en-us \\
        --init-from runs/decoder/export --manifest speech/train/manifest.parquet \\
        --codes codes/train --vocoder runs/vocoder/export --save runs/voice

The finished decoder lies in SAVE/export. Run the same command again to continue a stopped training.
Samples to hear and see are in TensorBoard. torchrun starts one process a device.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence

    from megatron_speech import cli
    from megatron_speech.recipes.speech_decoder import RECIPES
    from megatron_speech.recipes.speech_decoder_run import train_decoder
    from megatron_speech.recipes.speech_run import SpeechResult


def main(argv: Sequence[str] | None = None) -> SpeechResult:
    """Train the recipe named on the command line."""
    result = train_decoder(*cli.parse_recipe(RECIPES, argv, __doc__ or ""))
    if result.export is not None:
        print(f"the model is in {result.export}")
    return result


if __name__ == "__main__":
    cli.run(main)
