"""What a page lets one hear and read: recordings with their codes, interleaved documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from megatron_speech.data.manifest import ManifestRow


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording to play, its codes, and what the speech tokenizer reads from them."""

    kind: str
    """Which set it comes from, in words."""
    text: str
    speaker: str
    samples: np.ndarray
    """(samples,) float32 in -1..1."""
    codes: np.ndarray
    """(n,) codes."""
    reading: str
    sample_rate_hz: int = 16_000


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of text (no codes), or a spoken span with its text and number of codes."""

    text: str
    num_codes: int = 0


def recordings(
    tokenizer_folder: Path,
    chosen: Sequence[tuple[str, "ManifestRow"]],
    codes: Sequence[np.ndarray] | None = None,
) -> list[Recording]:
    """Recordings, each (kind, row of a manifest), with what a speech tokenizer reads from them.

    Their `codes` are made where none are given.
    """
    from megatron_speech.audio import read_audio
    from megatron_speech.speech_tokenizer.tokenizer import SpeechTokenizer

    tokenizer = SpeechTokenizer.from_pretrained(tokenizer_folder)
    sounds = [read_audio(row.path) for _, row in chosen]
    codes = tokenizer.encode(sounds) if codes is None else codes
    readings = tokenizer.decode_text(codes, [row.language or None for _, row in chosen])
    return [
        Recording(kind=kind, text=row.text, speaker=row.speaker, samples=sound, codes=own,
                  reading=reading)
        for (kind, row), sound, own, reading in zip(chosen, sounds, codes, readings, strict=True)
    ]  # fmt: skip


def documents(prefix: Path, vocab: Path, count: int) -> list[list[Segment]]:
    """The first documents of an interleaved dataset: text, and spans with the words they say."""
    from megatron_speech.datasets.inspect import InspectConfig, inspect

    config = InspectConfig(vocab=vocab, documents=count)
    return [
        [
            Segment(text=run.text)
            if run.kind == "text"
            else Segment(text=run.spoken or "", num_codes=len(run.tokens))
            for run in runs
            if run.kind != "special"
        ]
        for runs in inspect(prefix, config).documents
    ]
