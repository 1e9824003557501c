"""Transcribed recordings as training batches."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from ..audio import MEL_FRAME_RATE_HZ, SAMPLE_RATE_HZ
from ..data.alignments import Alignments
from ..data.manifest import ManifestRow
from ..data.reading import length_s
from ..data.recordings import RecordingRow, read_rows
from ..errors import AudioError, ConfigError, DataError, require_within
from ..io.audio_files import duration_s
from ..io.rejected import Rejected, count_reasons, describe_counts
from ..jobs.progress import track
from ..training.ranks import gather_objects, rank_and_size
from .batch import IGNORED, AsrBatch
from .characters import character_ids
from .config import SpeechTokenizerConfig
from .features import clip_features, collate_features, with_silence
from .long_recordings import cut_long, stream_row
from .read_ahead import ReadBatchesConfig, first_readable
from .text import AsrText

Features = tuple[torch.Tensor, int]


@dataclass(frozen=True, kw_only=True)
class SpeechDataConfig(ReadBatchesConfig):
    """What to train and validate on."""

    manifest: Annotated[tuple[str | Path, ...], tyro.conf.arg(aliases=("--input",))] = ()
    """What to train on: manifests (parquet, tsv, jsonl: id, path, text, speaker, language), and all
    else that tools/tokenize_speech.py reads: folders of corpora, cuts, tars, Parquet with sound."""
    manifest_weights: tuple[float, ...] = ()
    """Share of each manifest in what is trained on, such as `1 3` for transcribed and
    pseudo-labelled recordings; none trains on every recording once an epoch."""
    valid_manifest: tuple[str | Path, ...] = ()
    """Manifests, or other inputs, of held-out recordings; each gets its own figures under its file
    or folder name."""
    tokenizer: Path | None = None
    """Text tokenizer of the targets, a folder or a model of the Hugging Face hub; none trains one
    on the transcripts."""
    asr_vocab_size: int = 1024
    """Size of the text tokenizer trained when none is given."""
    words_only: bool = False
    """Train on lower-case words without punctuation."""
    alignments: Path | None = None
    """Times of the recordings' words (Parquet: id, start_s, stop_s). With them recordings longer
    than 30 s are cut in pauses; without, they are set aside."""
    trailing_silence_s: float = 0.0
    """Silence behind each recording, at most as much as fills the window of 30 s. Whisper was
    trained with full windows and ends a text where silence begins."""
    cache_features: bool = False
    """Keep the log-mels of all recordings in memory (fp16, 58 MB an hour at 80 bands)."""
    valid_samples: int = 500
    """Most recordings of each validation manifest that are used."""
    seed: int = 1234
    """Order of the recordings, initial weights, k-means."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.manifest_weights and (
            len(self.manifest_weights) != len(self.manifest) or min(self.manifest_weights) <= 0
        ):
            raise ConfigError(
                f"--manifest-weights {self.manifest_weights} must be {len(self.manifest)} "
                "numbers above 0, one for each --manifest"
            )
        require_within(self, 0, "trailing_silence_s", most=30)


class AsrDataset:
    """Recordings of one or several sources, numbered through.

    What can be told to be unusable beforehand is in `rejected`. With `cache_features` that is all;
    else a recording is opened when a batch needs it, and if it turns out to be broken, the next one
    takes its place in every batch that asks for it.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[ManifestRow]],
        text: AsrText,
        config: SpeechTokenizerConfig,
        data: SpeechDataConfig,
        description: str = "reading speech",
    ):
        self.text, self.config, self.data = text, config, data
        self.rejected: list[Rejected] = []
        self._cache: dict[int, Features] = {}
        self._pool = ThreadPoolExecutor(max_workers=data.num_workers)
        parts = [self._cut(source) for source in sources]
        rows = [row for source in parts for row in source]
        owners = [number for number, source in enumerate(parts) for _ in source]
        kept = [n for n, row in enumerate(self._with_durations(rows)) if self._usable(row)]
        if data.cache_features:
            kept = self._fill_cache(rows, kept, description)
        if not kept:
            raise DataError(
                f"no usable recordings: {describe_counts(count_reasons(self.rejected))}; the "
                f"first: {self.rejected[:1]}"
            )
        self.rows = [rows[n] for n in kept]
        owned = [owners[n] for n in kept]
        self.sizes = [owned.count(number) for number in range(len(sources))]
        """Recordings of each source."""
        self.durations_s = [
            self._cache[n][1] / MEL_FRAME_RATE_HZ if n in self._cache else row.duration_s
            for n, row in enumerate(self.rows)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def unknown_languages(self) -> dict[str, int]:
        """Recordings by language, of languages that the text tokenizer cannot name."""
        names = Counter(row.language for row in self.rows)
        return {name: n for name, n in names.items() if name and not self.text.knows(name)}

    def batch(self, indices: Sequence[int]) -> AsrBatch:
        """The recordings at `indices`, padded.

        Raises:
            DataError: a hundred recordings in a row cannot be read.
        """
        found = list(self._pool.map(self._readable, indices))
        rows = [self.rows[index] for index, *_ in found]
        mel, mel_lengths = collate_features([features for _, features, _ in found])
        prompts = [self.text.prompt(row.language) for row in rows]
        targets = [self.text.encode(row.text, row.language) for row in rows]
        eos = self.text.eos_id
        inputs = [prompt + target for prompt, target in zip(prompts, targets, strict=True)]
        labels = [
            [IGNORED] * (len(prompt) - 1) + target + [eos]
            for prompt, target in zip(prompts, targets, strict=True)
        ]
        return AsrBatch(
            mel=mel,
            mel_lengths=mel_lengths,
            decoder_input=_padded(inputs, eos),
            labels=_padded(labels, IGNORED),
            targets=targets,
            characters=[character_ids(row.text) for row in rows],
            rejected=[item for *_, broken in found for item in broken],
        )

    def _readable(self, index: int) -> tuple[int, Features, list[Rejected]]:
        """The first recording from `index` on that can be read, and those before it."""

        def load(n: int) -> Features | Rejected:
            if n not in self._cache:
                return self._load(self.rows[n])
            mel, valid = self._cache[n]
            return mel.float(), valid

        return first_readable(index, len(self.rows), load)

    def _load(self, row: ManifestRow) -> Features | Rejected:
        """Log-mel of a recording and its valid frames, or why it has none.

        Of a recording that is too long no more than a window is read.
        """
        limit, samples = self.config.window_samples, 0
        blocks: list[np.ndarray] = []
        try:
            for block in stream_row(row):
                blocks.append(block)
                samples += len(block)
                if samples > limit:
                    detail = f"more than {limit / SAMPLE_RATE_HZ:g} s"
                    return Rejected(row.id, "too_long", detail)
            clip = with_silence(np.concatenate(blocks), self.data.trailing_silence_s, limit)
            return clip_features(clip, self.config)
        except AudioError as error:
            return Rejected(row.id, error.reason, str(error))

    def _cut(self, rows: Sequence[ManifestRow]) -> list[ManifestRow]:
        """The rows, the long ones in pieces where the times of their words are known."""
        if self.data.alignments is None:
            return list(rows)
        times = Alignments(self.data.alignments)
        window_s = self.config.window_samples / SAMPLE_RATE_HZ
        return [part for row in rows for part in cut_long(row, times.times(row.id), window_s)]

    def _usable(self, row: ManifestRow | Rejected) -> bool:
        found = row if isinstance(row, Rejected) else self._flaw(row)
        if found is not None:
            self.rejected.append(found)
        return found is None

    def _flaw(self, row: ManifestRow) -> Rejected | None:
        limit_s = self.config.window_samples / SAMPLE_RATE_HZ
        if not row.text.strip():
            return Rejected(row.id, "no_text", "the transcript is empty")
        if row.duration_s > limit_s:
            return Rejected(row.id, "too_long", f"{row.duration_s:.1f} s, at most {limit_s:g} s")
        room = self.config.max_target_positions - len(self.text.prompt(row.language)) - 1
        if not self.text.fits(row.text, room):
            return Rejected(row.id, "text_too_long", f"more than {room} tokens")
        return None

    def _with_durations(self, rows: list[ManifestRow]) -> list[ManifestRow | Rejected]:
        """Batches of like length need durations: what a manifest does not say, the files do.

        Each rank reads its share of the headers.
        """
        missing = [n for n, row in enumerate(rows) if not row.duration_s]
        result: list[ManifestRow | Rejected] = list(rows)
        if self.data.cache_features or not missing:
            return result
        rank, ranks = rank_and_size()
        own = missing[rank::ranks]
        found = self._pool.map(self._duration, [rows[n] for n in own])
        found = list(track(found, "reading lengths of recordings", len(own), "clips"))
        for part, durations in enumerate(gather_objects(found)):
            for n, duration in zip(missing[part::ranks], durations, strict=True):
                if isinstance(duration, Rejected):
                    result[n] = duration
                else:
                    result[n] = rows[n] = replace(rows[n], duration_s=duration)
        return result

    def _duration(self, row: ManifestRow) -> float | Rejected:
        try:
            known = isinstance(row, RecordingRow)
            return length_s(row.recording) if known else duration_s(row.path)
        except AudioError as error:
            return Rejected(row.id, error.reason, str(error))

    def _fill_cache(self, rows: list[ManifestRow], wanted: list[int], name: str) -> list[int]:
        kept: list[int] = []
        results = self._pool.map(self._load, [rows[n] for n in wanted])
        for n, found in zip(wanted, track(results, name, len(wanted), "clips"), strict=True):
            if isinstance(found, Rejected):
                self.rejected.append(found)
            else:
                self._cache[len(kept)] = (found[0].half(), found[1])
                kept.append(n)
        return kept


def read_sources(
    manifests: Sequence[str | Path], rejected: list[Rejected]
) -> list[list[ManifestRow]]:
    """Rows of each manifest; those that cannot be used are appended to `rejected`."""
    return [read_rows(manifest, rejected) for manifest in manifests]


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([list(row) + [value] * (longest - len(row)) for row in rows])
