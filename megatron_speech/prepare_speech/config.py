"""Settings of a job that makes a manifest of recordings, and its plan."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError, require_within
from ..io.files import read_json_object
from ..io.model_folders import model_fingerprint
from ..io.rejected import Rejected
from ..speech_tokenizer.bulk.plan import ShardedConfig, ShardPlan
from ..training.devices import require_device
from .filters import Thresholds


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(ShardedConfig):
    """Which recordings, who reads them, what is kept of them."""

    input: tuple[str | Path, ...]
    """Recordings, whatever their length: folders of audio, and all else that
    tools/tokenize_speech.py reads. Transcripts that there are, are checked and not replaced."""
    whisper: str
    """Whisper of transformers that reads: a folder, or an id of the Hugging Face hub. With --engine
    faster-whisper a folder of CTranslate2."""
    output: Path
    """Folder of the manifest, the audio of its segments, and the report."""
    second_whisper: str | None = None
    """Whisper that reads a second time; none lets the first read again what is played a little
    faster, on which nothing that was really said depends."""
    engine: Literal["transformers", "faster-whisper"] = "transformers"
    """Who computes the first Whisper (and the second, where it is none of its own)."""
    language: str = ""
    """Language of all recordings that name none; none lets a multilingual Whisper find it."""
    keep: Thresholds = field(default_factory=Thresholds)
    shard_size: int = 16
    """Recordings per shard, which is what a task makes at a time; 1 where they last for hours."""
    silence_s: float = 30.0
    """Silence behind each segment, at most what fills 30 s. Whisper was trained with as much; with
    2 it is faster, and many a short segment becomes a loop."""
    second_speed: float = 1.05
    """How much faster segments are played at the second reading."""
    batch_seconds: float = 240.0
    """Audio per batch, silence included."""
    device: str = "cpu"
    """Torch device."""
    bf16: bool = False
    """Compute Whisper in bfloat16."""

    def __post_init__(self) -> None:
        require_device(self.device, here=not self.dry_run)
        require_within(self, 1, "shard_size")
        require_within(self, 0, "silence_s", most=30)
        require_within(self, 1, "second_speed", most=1.5)
        if self.second_whisper is None and self.second_speed == 1:
            raise ConfigError(
                "the same Whisper would read the same twice: give --second-whisper, or another "
                "--second-speed"
            )
        require_within(self, 30, "batch_seconds")


class PreparePlan(ShardPlan[PrepareConfig]):
    """A job as one task sees it; `paths` are what each shard has come to."""

    folder = "parts"

    def rejected_path(self, number: int) -> Path:
        """Where a shard says what it set aside, beside other facts of it."""
        return self.paths[number].with_suffix(".json")

    def read_rejected(self, path: Path) -> list[Rejected]:
        """What such a file lists."""
        return [Rejected(**item) for item in read_json_object(path)["rejected"]]

    def settings(self) -> dict[str, Any]:
        """All that the output depends on."""
        config = self.config
        readers = [config.whisper, config.second_whisper]
        return {
            "input": self.recordings.fingerprint,
            "readers": [None if name is None else model_fingerprint(name) for name in readers],
            "keep": asdict(config.keep),
            **{
                name: getattr(config, name)
                for name in ("engine", "language", "shard_size", "silence_s", "second_speed",
                             "batch_seconds", "bf16")
            },
        }  # fmt: skip

    def describe(self) -> str:
        """The plan in a few lines."""
        found, archives = self.recordings.listed, self.recordings.archives
        return self.lines(
            recordings=f"{len(found):,}, and {len(archives):,} archives",
            hours=f"{found.seconds / 3600:,.2f}, of {found.known_durations:,} of known length",
        )
