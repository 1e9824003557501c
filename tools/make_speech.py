"""Speak a list of texts: 16 kHz FLAC files and a manifest.

    python tools/make_speech.py --texts runs/storyworld/speech/train.parquet \\
        --output-dir runs/speech/train --voices train

    python tools/make_speech.py --texts texts.parquet --output-dir runs/speech/neural \\
        --piper voices/en_US-libritts-high.onnx

espeak-ng speaks many languages on any machine, like a robot; Piper's neural voices speak like
people, each in its language. More voices are worth more than more hours of one. Run again, it
keeps what is finished. Texts that cannot be read or spoken go to rejected.jsonl.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    import time
    from collections.abc import Sequence

    from megatron_speech import cli
    from megatron_speech.data.manifest import read_texts
    from megatron_speech.io.rejected import Rejected, describe_counts
    from megatron_speech.text_to_speech.config import MakeSpeechConfig
    from megatron_speech.text_to_speech.speech_source import SpeechSummary, speak_texts


def main(argv: Sequence[str] | None = None) -> SpeechSummary:
    """Make the speech and return what was made."""
    config = cli.parse(MakeSpeechConfig, argv, __doc__)
    started = time.monotonic()
    unusable: list[Rejected] = []
    texts = read_texts(config.texts, config.text_column, unusable)
    summary = speak_texts(
        texts, config.output_dir, config.all_voices(), config.seed, config.workers, unusable
    )
    seconds = time.monotonic() - started
    print(
        f"{summary.utterances:,} utterances, {summary.duration_s / 3600:.2f} h in {seconds:.0f} s "
        f"({summary.duration_s / seconds:.0f} x real time), {summary.reused:,} found finished, "
        f"rejected: {describe_counts(summary.rejected)}"
    )
    return summary


if __name__ == "__main__":
    cli.run(main)
