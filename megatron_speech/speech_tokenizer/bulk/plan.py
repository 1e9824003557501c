"""What a bulk job will do: its settings, its shards, and what it takes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, Self

from ...audio import SAMPLE_RATE_HZ
from ...data.recording import Recording
from ...data.recordings import Recordings, find_recordings
from ...data.turned_up import DUE_AGAIN, turned_up
from ...errors import ConfigError, require_within
from ...io.rejected import Rejected, count_reasons, describe_counts, read_rejected
from ...jobs.tasks import Share, find_share
from ...training.devices import require_device
from ..config import CONV_STRIDE, SpeechTokenizerConfig
from .encoding import SORTED_BATCHES

_PYTHON_BYTES = 700e6
_SAMPLE_BYTES = 4
_READING_LISTS = 2
"""Times the memory of the lists, while they are read."""


@dataclass(frozen=True, kw_only=True)
class ShardedConfig:
    """Which recordings a job takes, in which shards, and which of these are a task's."""

    input: tuple[str | Path, ...]
    output: Path
    audio_root: Path | None = None
    """Where relative paths in manifests, cuts and other lists start; none means the list's own
    folder."""
    shard_size: int
    task: int | None = None
    """Number of this task, from 0; none asks torchrun, srun or the Slurm array."""
    tasks: int | None = None
    """Number of tasks: each makes every n-th shard."""
    dry_run: bool = False
    """Print the plan and stop."""


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig(ShardedConfig):
    """What to tokenize, with what, to where."""

    input: tuple[str | Path, ...]
    """Manifests (.parquet, .tsv, .jsonl), lhotse cuts (.jsonl.gz), NeMo manifests (.json), TSVs of
    Common Voice, WebDataset tars, Parquet with sound (files, or URLs as hf://datasets/...), or
    folders: corpora in the layouts of Kaldi, LibriSpeech, MLS, LJSpeech, Common Voice, NeMo and
    Hugging Face, or of audio and tars."""
    speech_tokenizer: Path
    """Folder of the speech tokenizer."""
    output: Path
    """Folder of the code shards."""
    shard_size: int = 4096
    """Recordings per shard; a tar or Parquet file is one shard whatever it holds."""
    device: str = "cpu"
    """Where features and encoder are computed: cpu, cuda (under torchrun one GPU each), cuda:1."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the encoder; the codebook stays in float32."""
    batch_seconds: float = 240.0
    """Audio per batch, padding included; GPUs like 2,000 and more."""
    num_workers: int = 4
    """Threads that read and resample."""

    def __post_init__(self) -> None:
        require_device(self.device, here=not self.dry_run)
        require_within(self, 1, "shard_size", "num_workers")
        require_within(self, 30, "batch_seconds")  # one window
        if not self.input:
            raise ConfigError("--input names nothing to tokenize")

    @property
    def batch_samples(self) -> int:
        """`batch_seconds` in samples."""
        return round(self.batch_seconds * SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class ShardPlan[Config: ShardedConfig](ABC):
    """A job over shards of recordings as one task sees it; every task numbers them alike."""

    config: Config
    recordings: Recordings
    share: Share
    folder: ClassVar[str] = "."
    """Where in the output folder the shards lie."""

    @classmethod
    def make(cls, config: Config, environment: Mapping[str, str]) -> Self:
        """Read the lists and find out which task this is.

        Raises:
            DataError: an input that is missing, of no known kind, or without anything usable.
            ConfigError: `--task` and `--tasks` that do not fit, or a Slurm array with gaps.
        """
        share = find_share(config.task, config.tasks, environment)
        return cls(config, find_recordings(config.input, config.audio_root), share)

    @cached_property
    def paths(self) -> list[Path]:
        """Files of the shards: first those of listed recordings, then one for each archive."""
        shards = range(self.recordings.shards(self.config.shard_size))
        return [self.config.output / self.folder / f"shard_{n:06d}.parquet" for n in shards]

    @property
    def own(self) -> list[int]:
        """Numbers of the shards of this task."""
        return list(self.share.of(range(len(self.paths))))

    @abstractmethod
    def rejected_path(self, number: int) -> Path:
        """Where a shard says what it set aside; there may be no such file where that is nothing."""

    @abstractmethod
    def read_rejected(self, path: Path) -> list[Rejected]:
        """What such a file lists."""

    def due_again(self) -> list[int]:
        """Finished shards of this task that lack recordings which have turned up since."""
        listed = self.recordings.listed_shards(self.config.shard_size)
        return [
            number
            for number in self.own
            if number < listed
            and self.paths[number].exists()
            and (judged := self.rejected_path(number)).exists()
            and turned_up(self.read_shard(number)[0], self.read_rejected(judged), judged)
        ]

    def read_shard(self, number: int) -> tuple[list[Recording], list[Rejected]]:
        """The recordings of a shard, and what its archive holds that cannot be used."""
        return self.recordings.read_shard(number, self.config.shard_size)

    def lines(self, **more: str) -> str:
        """The plan in a few lines: `more`, what was set aside, shards and tasks."""
        there = sum(path.exists() for path in self.paths)
        again = len(self.due_again())
        more |= {
            "set aside": describe_counts(count_reasons(self.recordings.rejected)),
            "shards": f"{len(self.paths):,}, of which {there:,} are there"
            + (f"; {again:,} of them {DUE_AGAIN}" if again else ""),
            "tasks": f"this is {self.share}, it makes {len(self.own):,} shards",
        }
        return "\n".join(f"{name:<12}{value}" for name, value in more.items())


class TokenizePlan(ShardPlan[TokenizeConfig]):
    """A bulk job as one task sees it."""

    def rejected_path(self, number: int) -> Path:
        """Where a shard says what it set aside; no file where that is nothing."""
        return self.config.output / ".rejected" / f"{self.paths[number].stem}.jsonl"

    def read_rejected(self, path: Path) -> list[Rejected]:
        """What such a file lists."""
        return read_rejected(path)

    def describe(self) -> str:
        """The plan in a few lines."""
        listed, config = self.recordings.listed, self.config
        later = f", {len(self.recordings.archives):,} tars and Parquet files (counted when read)"
        host, batch = _memory_bytes(config)
        host += _READING_LISTS * listed.num_bytes
        place = "on the device" if config.device != "cpu" else "more"
        return self.lines(
            clips=f"{len(listed):,}{later if self.recordings.archives else ''}",
            hours=f"{listed.seconds / 3600:,.2f} in the {listed.known_durations:,} clips whose "
            "length is known",
            memory=f"about {host / 1e9:.1f} GB a task, and {batch / 1e9:.1f} GB {place} while "
            f"a batch of {config.batch_seconds:g} s is encoded",
        )


def _memory_bytes(config: TokenizeConfig) -> tuple[float, float]:
    """Estimates: for the whole time, and beside that for one batch in the encoder."""
    from ..layout import read_config

    shape = read_config(config.speech_tokenizer)
    weights = sum(path.stat().st_size for path in config.speech_tokenizer.glob("*.safetensors"))
    audio = (2 * SORTED_BATCHES + 2) * config.batch_samples * _SAMPLE_BYTES
    return _PYTHON_BYTES + weights + audio, _batch_bytes(config, shape)


def _batch_bytes(config: TokenizeConfig, shape: SpeechTokenizerConfig) -> float:
    element = 2 if config.dtype == "bfloat16" else 4
    positions = shape.max_source_positions
    windows = max(config.batch_samples // shape.window_samples, 1)
    wide = shape.num_mel_bins * CONV_STRIDE * 2 + shape.d_model * 6 + shape.encoder_ffn_dim * 2
    masks = 2 * positions  # the scores themselves are never whole
    return windows * positions * (wide + masks) * element
