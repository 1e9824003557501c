"""Transcribe recordings by a released Whisper: pseudo-labels to train a speech tokenizer on.

    python tools/transcribe_speech.py --manifest prompts/manifest.tsv --whisper whisper-base \\
        --output prompts/transcribed.parquet

Each row's `language` goes into Whisper's prompt; a row that names none counts as English.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence

    from megatron_speech import cli
    from megatron_speech.data.manifest import ManifestRow
    from megatron_speech.io.rejected import describe_counts
    from megatron_speech.speech_tokenizer.pseudo_labels import TranscribeConfig, transcribe


def main(argv: Sequence[str] | None = None) -> list[ManifestRow]:
    """Transcribe, print what was done, return the rows."""
    config = cli.parse(TranscribeConfig, argv, __doc__ or "")
    rows, rejected = transcribe(config)
    hours = sum(row.duration_s for row in rows) / 3600
    print(
        f"{config.output}: {len(rows):,} recordings, {hours:.2f} h, rejected: "
        f"{describe_counts(rejected)}"
    )
    return rows


if __name__ == "__main__":
    cli.run(main, starts_over=True)
