"""Speak: codes, recordings sent through the speech tokenizer, or a language model's output.

    python tools/decode_speech.py --decoder runs/decoder/export --codes codes/test --output spoken
    python tools/decode_speech.py --decoder runs/decoder/export --audio question.wav \\
        --speech-tokenizer runs/speech_tokenizer/export --output spoken --streaming
    python tools/decode_speech.py --decoder runs/decoder/export --generated answers.jsonl \\
        --vocab runs/lm/hf --output spoken

One FLAC file of 22,050 Hz an utterance. Run again, it keeps what is finished; what cannot be spoken
is listed in OUTPUT/rejected.jsonl.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence

    from megatron_speech import cli
    from megatron_speech.io.rejected import describe_counts
    from megatron_speech.speech_decoder.job import DecodeSpeechConfig, DecodeSummary, decode_files


def main(argv: Sequence[str] | None = None) -> DecodeSummary:
    """Decode what the command line names."""
    summary = decode_files(cli.parse(DecodeSpeechConfig, argv, __doc__ or ""))
    speed = summary.seconds / summary.audio_s if summary.audio_s else 0.0
    print(
        f"{summary.spoken:,} utterances, {summary.audio_s:.1f} s of audio in "
        f"{summary.seconds:.1f} s (real-time factor {speed:.2f}), "
        f"{summary.reused:,} found finished, "
        f"rejected: {describe_counts(summary.rejected)}"
    )
    if summary.first_audio_s is not None:
        print(f"first audio {summary.first_audio_s:.3f} s after the first block of codes")
    return summary


if __name__ == "__main__":
    cli.run(main)
