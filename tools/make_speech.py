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
    from dataclasses import dataclass
    from pathlib import Path
    from typing import Any, Literal

    from megatron_speech import cli
    from megatron_speech.data.manifest import read_texts
    from megatron_speech.errors import ConfigError
    from megatron_speech.io.rejected import Rejected, describe_counts
    from megatron_speech.text_to_speech.espeak import voices_of
    from megatron_speech.text_to_speech.piper import speakers_of
    from megatron_speech.text_to_speech.speech_source import SpeechSummary, speak_texts


@dataclass(frozen=True, kw_only=True)
class MakeSpeechConfig:
    """Settings of this tool."""

    texts: Path
    """Parquet or JSON lines (.jsonl, .jsonl.gz, .jsonl.zst) with `text` and, if possible, `id`."""
    output_dir: Path
    """Folder for audio/ and manifest.parquet."""
    text_column: str = "text"
    """Column that holds the text."""
    voices: Literal["train", "held-out", "all", "many", "narrator"] = "train"
    """Which voices speak: `many` are sixty of several accents (of other languages than English
    twelve variants of one), `held-out` is for tests alone, `narrator` for a speech decoder."""
    language: str = "en"
    """Language of texts and voices, as espeak-ng names it: es, es-419, fr, ...; zh is Mandarin."""
    piper: tuple[Path, ...] = ()
    """Voices of Piper (NAME.onnx, NAME.onnx.json beside it) in place of espeak-ng's; needs the
    package piper-tts."""
    piper_speakers: tuple[int, ...] = ()
    """Speakers by number, of Piper's voices that have several; all if none is named."""
    seed: int = 1
    """With the id, decides voice, pitch and rate of an utterance."""
    workers: int | None = None
    """Processes; as many as there are processors if not given."""

    def __post_init__(self) -> None:
        if self.piper_speakers and not self.piper:
            raise ConfigError("--piper-speakers chooses speakers of --piper, which is not given")
        if self.piper and self.language != "en":
            raise ConfigError("--language is for espeak-ng; a voice of --piper has its own")
        if any(number < 0 for number in self.piper_speakers):
            raise ConfigError("--piper-speakers are numbered from 0")

    def all_voices(self) -> Any:
        """Those that speak, of one engine."""
        if self.piper:
            return speakers_of(self.piper, self.piper_speakers)
        return voices_of(self.language, self.voices)


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
