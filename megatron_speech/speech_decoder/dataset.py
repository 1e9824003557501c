"""Recordings, with their codes or without, as training material at 22,050 Hz."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..audio import Excerpt, read_audio
from ..data.code_shards import CodeShardInfo, read_code_shards
from ..data.manifest import ManifestRow, read_manifest
from ..errors import AudioError, DataError
from ..io.rejected import Rejected, count_reasons, describe_counts
from ..jobs.progress import track
from ..speech_tokenizer.read_ahead import ReadBatchesConfig, first_readable
from .mel import SAMPLE_RATE_HZ

_CODES_OFF = 2
"""A recording and its codes may differ in length by so many codes: rounding at either end."""
_AS_DECODED = Excerpt(rate_hz=SAMPLE_RATE_HZ)


@dataclass(frozen=True, kw_only=True)
class DecoderDataConfig(ReadBatchesConfig):
    """What to train and validate on."""

    manifest: tuple[Path, ...] = ()
    """Manifests (parquet, tsv, jsonl: id, path, text, speaker, language) to train on."""
    valid_manifest: tuple[Path, ...] = ()
    """Manifests of held-out recordings."""
    voice: str | None = None
    """Train and validate on this speaker's recordings alone (the paper's second stage)."""
    cache_audio: bool = False
    """Keep all recordings in memory (16 bits a sample, 159 MB an hour)."""
    valid_samples: int = 64
    """Most held-out recordings used, from the start."""
    seed: int = 1234
    """Order of the recordings, crops, noise, initial weights."""


@dataclass(frozen=True)
class Utterance:
    """One recording: audio (samples,) as 16-bit numbers, its codes (n,) if asked for."""

    row: ManifestRow
    audio: np.ndarray
    codes: np.ndarray

    def excerpt(self, first: int, last: int) -> np.ndarray:
        """Samples first .. last - 1 as float32 in -1..1; zeros lie outside the recording."""
        inside = self.audio[max(first, 0) : max(last, 0)].astype(np.float32) / 32768
        before = max(-first, 0)
        return np.pad(inside, (before, last - first - before - len(inside)))


class Codes:
    """Codes of recordings by id, all of one speech tokenizer."""

    def __init__(self, paths: Sequence[Path]):
        """Read code shards.

        Raises:
            DataError: none, damaged ones, or of several speech tokenizers.
        """
        self.info: CodeShardInfo
        self.info, records = read_code_shards(list(paths))
        self.by_id: dict[str, np.ndarray] = {record.id: record.codes for record in records}


class DecoderDataset:
    """Recordings of several manifests, numbered through.

    With `cache_audio` what cannot be used is known at the start and is in `rejected`; else a
    recording is opened when it is needed, and if it is broken the next one takes its place.
    """

    def __init__(
        self,
        manifests: Sequence[Path],
        data: DecoderDataConfig,
        codes: Codes | None,
        description: str,
    ):
        self.data, self.codes = data, codes
        self.rejected: list[Rejected] = []
        rows = [row for path in manifests for row in read_manifest(path, self.rejected)]
        rows = [row for row in rows if data.voice in (None, row.speaker)]
        self._pool = ThreadPoolExecutor(max_workers=data.num_workers)
        self._cache: dict[int, Utterance] = {}
        kept = [row for row in rows if self._has_codes(row)]
        self.rows = self._read_all(kept, description) if data.cache_audio else kept
        if not self.rows:
            whose = f" of the voice {data.voice!r}" if data.voice is not None else ""
            raise DataError(
                f"no usable recordings{whose} in {', '.join(map(str, manifests))}; set aside: "
                f"{describe_counts(count_reasons(self.rejected))}"
            )
        self.sizes = [len(self.rows)]
        self.durations_s = [self._duration_s(n) for n in range(len(self.rows))]

    def __len__(self) -> int:
        return len(self.rows)

    def speakers(self) -> tuple[str, ...]:
        """Names of the voices, sorted."""
        return tuple(sorted({row.speaker for row in self.rows if row.speaker}))

    def get(self, indices: Sequence[int]) -> tuple[list[Utterance], list[Rejected]]:
        """The recordings at `indices`, and those found broken in whose place others stand.

        Raises:
            DataError: a hundred recordings in a row cannot be read.
        """
        found = list(self._pool.map(self._readable, indices))
        return [item for _, item, _ in found], [item for *_, broken in found for item in broken]

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _has_codes(self, row: ManifestRow) -> bool:
        if self.codes is None or len(self.codes.by_id.get(row.id, ())):
            return True
        self.rejected.append(Rejected(row.id, "no_codes", "no codes of this id in --codes"))
        return False

    def _duration_s(self, number: int) -> float:
        if number in self._cache:
            return len(self._cache[number].audio) / SAMPLE_RATE_HZ
        if self.codes is not None:
            return len(self.codes.by_id[self.rows[number].id]) / self.codes.info.frame_rate_hz
        return self.rows[number].duration_s

    def _read_all(self, rows: list[ManifestRow], description: str) -> list[ManifestRow]:
        kept: list[ManifestRow] = []
        results = self._pool.map(self._load, rows)
        for found in track(results, description, len(rows), "recordings"):
            if isinstance(found, Rejected):
                self.rejected.append(found)
            else:
                self._cache[len(kept)] = found
                kept.append(found.row)
        return kept

    def _readable(self, index: int) -> tuple[int, Utterance, list[Rejected]]:
        return first_readable(
            index, len(self), lambda n: self._cache.get(n) or self._load(self.rows[n])
        )

    def _load(self, row: ManifestRow) -> Utterance | Rejected:
        try:
            audio = read_audio(row.path, _AS_DECODED)
        except AudioError as error:
            return Rejected(row.id, error.reason, str(error))
        codes = np.zeros(0, np.int64)
        if self.codes is not None:
            codes = self.codes.by_id[row.id]
            expected = len(audio) * self.codes.info.frame_rate_hz / SAMPLE_RATE_HZ
            if abs(len(codes) - expected) > _CODES_OFF:
                detail = f"{len(codes)} codes for {expected:.1f} codes' worth of audio"
                return Rejected(row.id, "other_length", detail)
        return Utterance(row, (audio.clip(-1, 1) * 32767).astype(np.int16), codes)
