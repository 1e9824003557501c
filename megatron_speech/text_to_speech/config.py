"""Settings of `make_speech`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ConfigError
from .espeak import voices_of
from .piper import speakers_of
from .speech_source import Voices


@dataclass(frozen=True, kw_only=True)
class MakeSpeechConfig:
    """What is spoken, by whom."""

    texts: Path
    """Parquet or JSON lines (.jsonl, .jsonl.gz, .jsonl.zst) with `text` and, if possible, `id`."""
    output_dir: Path
    """Folder for audio/ and manifest.parquet."""
    text_column: str = "text"
    """Column that holds the text."""
    voices: Literal["train", "held-out", "all", "many", "narrator"] | None = None
    """Which voices of espeak-ng speak, `train` if not given: `many` are sixty of several accents
    (of other languages than English twelve variants of one), `held-out` is for tests alone,
    `narrator` for a speech decoder."""
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
        if self.piper and self.voices is not None:
            raise ConfigError("--voices chooses among espeak-ng's; --piper speaks in place of them")
        if self.piper and self.language != "en":
            raise ConfigError("--language is for espeak-ng; a voice of --piper has its own")
        if any(number < 0 for number in self.piper_speakers):
            raise ConfigError("--piper-speakers are numbered from 0")

    def all_voices(self) -> Voices:
        """Those that speak, of one engine."""
        if self.piper:
            return speakers_of(self.piper, self.piper_speakers)
        return voices_of(self.language, self.voices or "train")
