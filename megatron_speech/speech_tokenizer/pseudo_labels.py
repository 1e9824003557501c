"""Transcripts by a released Whisper for recordings that have none (paper section 2.4)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import batched
from pathlib import Path

import numpy as np
import torch

from ..audio import SAMPLE_RATE_HZ, read_audio
from ..data.manifest import ManifestRow, read_manifest, write_manifest
from ..errors import AudioError, ConfigError, DataError, require_within
from ..io.rejected import Rejected, describe_counts, write_rejected
from ..text.repetition import MOST_REPETITION, repetition
from ..training.devices import require_device
from .whisper import Whisper

_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class TranscribeConfig:
    """Which recordings are read, by which Whisper."""

    manifest: Path
    """Recordings (parquet, tsv, jsonl); texts that it has are replaced."""
    whisper: Path
    """Whisper model of transformers: a folder, or an id of the Hugging Face hub."""
    output: Path
    """Parquet manifest with the transcripts; what has none is in NAME.rejected.jsonl beside it."""
    limit: int | None = None
    """Recordings, from the start."""
    silence_s: float = 30.0
    """Silence behind each window of 30 s, at most as much as fills it. Whisper was trained with 30;
    2 is several times faster on short clips and reads some of them otherwise."""
    most_repetition: float = MOST_REPETITION
    """Loops, and texts that zlib makes more times smaller, are set aside: of speech that it does
    not know a Whisper repeats a few words. 100 keeps all."""
    device: str = "cpu"
    """Torch device."""
    bf16: bool = False
    """Compute in bfloat16."""

    def __post_init__(self) -> None:
        require_device(self.device)
        require_within(self, 1, "limit")
        require_within(self, 0, "silence_s", most=30)
        if self.output.suffix != ".parquet" or self.output.is_dir():
            raise ConfigError(f"--output {self.output}: give a file that ends in .parquet")
        both_there = self.output.exists() and self.manifest.exists()
        if both_there and self.output.samefile(self.manifest):
            raise ConfigError(f"--output {self.output} is --manifest too; choose another name")


def transcribe(config: TranscribeConfig) -> tuple[list[ManifestRow], dict[str, int]]:
    """Write the manifest; returns its rows, and what was set aside, counted by reason.

    Raises:
        CheckpointError: no Whisper in the folder.
        DataError: no recording that can be read, or none in which something is said.
        OSError: no place for the manifest.
    """
    config.output.parent.mkdir(parents=True, exist_ok=True)  # now, not after hours of reading
    dtype = torch.bfloat16 if config.bf16 else torch.float32
    whisper = Whisper.from_pretrained(config.whisper, config.device, dtype)
    rejected: list[Rejected] = []
    rows = read_manifest(config.manifest, rejected)[: config.limit]
    found: list[ManifestRow] = []
    for part in batched(rows, _ROWS):
        found += _read(whisper, list(part), config, rejected)
    listed = config.output.with_suffix(".rejected.jsonl")
    counts = write_rejected(listed, rejected)
    if not found:
        raise DataError(
            f"{config.manifest}: no recording has a transcript; set aside were "
            f"{describe_counts(counts)}, listed in {listed}"
        )
    write_manifest(config.output, found)
    return found, counts


def _read(
    whisper: Whisper, rows: list[ManifestRow], config: TranscribeConfig, rejected: list[Rejected]
) -> Iterator[ManifestRow]:
    clips: list[np.ndarray] = []
    readable: list[ManifestRow] = []
    for row in rows:
        try:
            clips.append(read_audio(row.path))
        except AudioError as error:
            rejected.append(Rejected(row.id, error.reason, str(error)))
        else:
            readable.append(row)
    texts = whisper.transcribe(clips, [row.language or None for row in readable], config.silence_s)
    for row, clip, text in zip(readable, clips, texts, strict=True):
        if not any(map(str.isalnum, text)):
            rejected.append(Rejected(row.id, "no_text", f"read as {text!r}"))
        elif (ratio := repetition(text)) > config.most_repetition:
            detail = f"{ratio:.1f}, at most {config.most_repetition:g}: {text[:100]}"
            rejected.append(Rejected(row.id, "repetition", detail))
        else:
            yield replace(row, text=text, duration_s=len(clip) / SAMPLE_RATE_HZ)
