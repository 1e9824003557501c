"""Transcribed recordings as training batches, chosen by the step alone."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ..audio import MEL_FRAME_RATE_HZ, SAMPLE_RATE_HZ, read_audio
from ..data.manifest import ManifestRow, read_manifest
from ..errors import AudioError, ConfigError, DataError
from ..progress import track
from .characters import character_ids
from .config import CONV_STRIDE, SpeechTokenizerConfig
from .features import clip_features, collate_features
from .text import AsrText

IGNORED = -100
_SORTED_BATCHES = 50


@dataclass(frozen=True, kw_only=True)
class SpeechDataConfig:
    """What to train and validate on."""

    manifest: tuple[Path, ...] = ()
    """Manifests (parquet or tsv: id, path, text, speaker, language) of the training recordings."""
    valid_manifest: tuple[Path, ...] = ()
    """Manifests of held-out recordings; each gets its own figures under its file or folder name."""
    tokenizer: Path | None = None
    """Text tokenizer of the targets (a Hugging Face folder); none trains one on the transcripts."""
    asr_vocab_size: int = 1024
    """Size of the text tokenizer trained when none is given."""
    words_only: bool = False
    """Train on lower-case words without punctuation."""
    cache_features: bool = False
    """Keep the log-mels of all recordings in memory (fp16, 58 MB an hour at 80 bands)."""
    micro_batch_size: int = 16
    """Recordings per forward pass and rank."""
    global_batch_size: int = 16
    """Recordings per optimizer step over all ranks."""
    valid_samples: int = 500
    """Most recordings of each validation manifest that are used."""
    num_workers: int = 2
    """Threads that read audio."""
    seed: int = 1234
    """Order of the recordings, initial weights, k-means."""

    def __post_init__(self) -> None:
        if self.micro_batch_size < 1 or self.global_batch_size % self.micro_batch_size:
            raise ConfigError(
                f"--global-batch-size {self.global_batch_size} must be a multiple of "
                f"--micro-batch-size {self.micro_batch_size}"
            )


@dataclass
class AsrBatch:
    """B recordings padded to F mel frames and L tokens."""

    mel: torch.Tensor
    """Log-mels (B, bins, F)."""
    mel_lengths: torch.Tensor
    """Valid frames (B,)."""
    decoder_input: torch.Tensor
    """Prompt and text tokens (B, L)."""
    labels: torch.Tensor
    """Next tokens (B, L); IGNORED in the prompt and on padding."""
    targets: list[list[int]]
    """Text tokens without prompt and end, for CTC."""
    characters: list[list[int]]
    """Letters of the texts, for the character CTC."""

    def to(self, device: torch.device) -> "AsrBatch":
        names = ("mel", "mel_lengths", "decoder_input", "labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


class AsrDataset:
    """Recordings of some manifests. What cannot be used is in `rejected` (id, reason, detail)."""

    def __init__(
        self,
        rows: Sequence[ManifestRow],
        text: AsrText,
        config: SpeechTokenizerConfig,
        data: SpeechDataConfig,
        description: str = "reading speech",
    ):
        self.text, self.config, self.data = text, config, data
        self.rejected: list[dict[str, str]] = []
        self._cache: dict[int, tuple[torch.Tensor, int]] = {}
        self._pool = ThreadPoolExecutor(max_workers=data.num_workers)
        rows = [row for row in rows if self._usable(row)]
        if data.cache_features:
            rows = self._fill_cache(rows, description)
        if not rows:
            raise DataError(f"no usable recordings: all rejected, first {self.rejected[:1]}")
        self.rows = rows
        self.targets = [text.encode(row.text) for row in rows]
        self.durations_s = [
            self._cache[n][1] / MEL_FRAME_RATE_HZ if n in self._cache else row.duration_s
            for n, row in enumerate(rows)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> AsrBatch:
        """The recordings at `indices`, padded."""
        mel, mel_lengths = collate_features(list(self._pool.map(self._features, indices)))
        prompts = [self.text.prompt(self.rows[index].language) for index in indices]
        targets = [self.targets[index] for index in indices]
        eos = self.text.eos_id
        inputs = [prompt + target for prompt, target in zip(prompts, targets, strict=True)]
        labels = [
            [IGNORED] * (len(prompt) - 1) + target + [eos]
            for prompt, target in zip(prompts, targets, strict=True)
        ]
        padded = _padded(inputs, eos), _padded(labels, IGNORED)
        characters = [character_ids(self.rows[index].text) for index in indices]
        return AsrBatch(mel, mel_lengths, *padded, targets, characters)

    def _features(self, index: int) -> tuple[torch.Tensor, int]:
        if index in self._cache:
            mel, valid = self._cache[index]
            return mel.float(), valid
        return self._load(self.rows[index])

    def _load(self, row: ManifestRow) -> tuple[torch.Tensor, int]:
        return clip_features(read_audio(row.path), self.config)

    def _usable(self, row: ManifestRow) -> bool:
        limit_s = self.config.window_samples / SAMPLE_RATE_HZ
        if not row.text.strip():
            return self._reject(row, "no_text", "the transcript is empty")
        if row.duration_s > limit_s:
            return self._reject(row, "too_long", f"{row.duration_s:.1f} s, at most {limit_s:g} s")
        room = self.config.max_target_positions - len(self.text.prompt(row.language)) - 1
        if len(row.text) > room and len(self.text.encode(row.text)) > room:
            return self._reject(row, "text_too_long", f"more than {room} tokens")
        return True

    def _reject(self, row: ManifestRow, reason: str, detail: str) -> bool:
        self.rejected.append({"id": row.id, "reason": reason, "detail": detail})
        return False

    def _fill_cache(self, rows: list[ManifestRow], description: str) -> list[ManifestRow]:
        kept: list[ManifestRow] = []
        results = self._pool.map(self._load_or_error, rows)
        for row, result in zip(rows, track(results, description, len(rows), "clips"), strict=True):
            if isinstance(result, AudioError):
                self._reject(row, result.reason, str(result))
            elif result[1] > self.config.max_source_positions * CONV_STRIDE:
                self._reject(row, "too_long", f"{result[1] / MEL_FRAME_RATE_HZ:.1f} s")
            else:
                self._cache[len(kept)] = (result[0].half(), result[1])
                kept.append(row)
        return kept

    def _load_or_error(self, row: ManifestRow) -> tuple[torch.Tensor, int] | AudioError:
        try:
            return self._load(row)
        except AudioError as error:
            return error


class BatchPlan:
    """Which recordings make the global batch of each step: a pure function of (seed, step).

    Every epoch shuffles the recordings, sorts stretches of 50 batches by duration so that little
    is padded, and shuffles the batches. The last incomplete batch of an epoch is left out.
    """

    def __init__(self, durations_s: Sequence[float], batch_size: int, seed: int):
        if len(durations_s) < batch_size:
            raise DataError(
                f"{len(durations_s)} usable recordings do not fill one batch of {batch_size}; "
                "lower --global-batch-size"
            )
        self._durations = np.asarray(durations_s)
        self._batch_size, self._seed = batch_size, seed
        self.batches_per_epoch = len(durations_s) // batch_size
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def batch(self, iteration: int) -> np.ndarray:
        """Indices of the recordings of step `iteration`."""
        epoch, position = divmod(iteration, self.batches_per_epoch)
        return self._epoch(epoch)[position]

    def _make_epoch(self, epoch: int) -> np.ndarray:
        random = np.random.default_rng((self._seed, epoch))
        used = self.batches_per_epoch * self._batch_size
        order = random.permutation(len(self._durations))[:used]
        stretch = _SORTED_BATCHES * self._batch_size
        for start in range(0, used, stretch):
            part = order[start : start + stretch]
            order[start : start + stretch] = part[np.argsort(self._durations[part], kind="stable")]
        return random.permutation(order.reshape(-1, self._batch_size))


def read_rows(manifests: Sequence[Path]) -> list[ManifestRow]:
    """Rows of several manifests, in order."""
    return [row for manifest in manifests for row in read_manifest(manifest)]


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([list(row) + [value] * (longest - len(row)) for row in rows])
