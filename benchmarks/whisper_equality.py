"""Whisper untouched in our code and in transformers: equal texts, and so equal word errors.

    python benchmarks/whisper_equality.py --whisper whisper-base \\
        --manifest librivox.parquet prompts.parquet

Both read every recording of up to 30 s greedily, filled up with silence to 30 s, told its language.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import report
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from megatron_speech import cli
from megatron_speech.audio import SAMPLE_RATE_HZ, read_audio
from megatron_speech.data.manifest import manifest_name, read_manifest
from megatron_speech.errors import DataError
from megatron_speech.speech_tokenizer.languages import language_code
from megatron_speech.speech_tokenizer.transcription import word_error_rate
from megatron_speech.speech_tokenizer.whisper import Whisper

_WINDOW_S = 30
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class WhisperEqualityConfig:
    """What reads, and what is read."""

    whisper: Path
    """Folder of a released Whisper."""
    manifest: tuple[Path, ...]
    """Recordings with texts, a set each."""
    limit: int | None = None
    """Recordings of each set, from the start."""
    batch_size: int = 4
    """Recordings read at once."""
    threads: int = 1
    """Of torch."""
    name: str = "whisper_equality"
    """The results are benchmarks/results/NAME.json."""


class Peer:
    """The same folder in transformers."""

    def __init__(self, folder: Path):
        self.model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.features = WhisperFeatureExtractor(self.model.config.num_mel_bins)

    @torch.inference_mode()
    def transcribe(self, clips: list[np.ndarray], languages: list[str]) -> list[str]:
        """Clips (n,) of at most 30 s -> texts."""
        mel = self.features(clips, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").input_features
        said = {"language": languages, "task": "transcribe"}
        said = said if self.model.generation_config.is_multilingual else {}
        rows = self.model.generate(mel, do_sample=False, num_beams=1, **said)
        return [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]


def compare(manifest: Path, ours: Whisper, peer: Peer, config: WhisperEqualityConfig) -> Figures:
    """Both readings of a set: how many texts are equal, word errors of each, what differs."""
    rows = [row for row in read_manifest(manifest) if row.text.strip()][: config.limit]
    found: list[tuple[str, str, str, str]] = []
    for some in batched(rows, config.batch_size):
        clips = [(row, read_audio(row.path)) for row in some]
        clips = [(row, clip) for row, clip in clips if len(clip) <= _WINDOW_S * SAMPLE_RATE_HZ]
        languages = [language_code(row.language or "en") for row, _ in clips]
        if clips:
            audio = [clip for _, clip in clips]
            texts = ours.transcribe(audio, languages), peer.transcribe(audio, languages)
            said = [row.text for row, _ in clips]
            found += zip(said, languages, *texts, strict=True)
        print(f"{manifest_name(manifest)}: {len(found)} of {len(rows)} read", flush=True)
    if not found:
        raise DataError(f"{manifest} has no recording with a text of at most {_WINDOW_S} s")
    different = [(one, other) for *_, one, other in found if one != other]
    return {
        "recordings": len(found),
        "longer_than_30_s": len(rows) - len(found),
        "equal_texts": len(found) - len(different),
        "wer_ours": _wer([(said, one, name) for said, name, one, _ in found]),
        "wer_transformers": _wer([(said, other, name) for said, name, _, other in found]),
        "first_different": different[:5],
    }


def _wer(read: list[tuple[str, str, str]]) -> float:
    said, texts, names = ([each[place] for each in read] for place in range(3))
    return word_error_rate(said, texts, names)


def main(argv: Sequence[str] | None = None) -> Figures:
    config = cli.parse(WhisperEqualityConfig, argv, __doc__ or "")
    torch.set_num_threads(config.threads)
    ours, peer = Whisper.from_pretrained(config.whisper), Peer(config.whisper)
    figures: Figures = {"whisper": config.whisper.name}
    for path in config.manifest:
        figures[manifest_name(path)] = compare(path, ours, peer, config)
        print(figures[manifest_name(path)], flush=True)
    report(config.name, "transformers' WhisperForConditionalGeneration", figures)
    return figures


if __name__ == "__main__":
    cli.run(main, starts_over=True)
