"""What a speech tokenizer costs: the same recordings read by Whisper, without codes, with them.

Three readings of each recording: `whisper`, a released Whisper as it is; `vectors`, the tokenizer's
network past its codebook; `codes`, through it. What lies between the first two is the training and
the pool, between the last two the codebook.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import read_audio
from ..data.manifest import ManifestRow, manifest_name, read_manifest
from ..errors import AudioError, DataError
from ..speech_tokenizer.languages import language_code
from ..speech_tokenizer.tokenizer import SpeechTokenizer
from ..speech_tokenizer.transcription import error_rate, word_errors
from ..speech_tokenizer.whisper import Whisper, transcribe_audio


def evaluate_recordings(
    manifest: Path,
    tokenizer: SpeechTokenizer | None,
    whisper: Whisper | None,
    limit: int | None = None,
    whisper_silence_s: float = 30.0,
    language: str = "en",
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Word error rates of each reading, in all and by language; and the codes (n,) of each.

    A recording that names no language is of `language`.

    Raises:
        DataError: no recording with a text that can be read.
        ConfigError: a speech tokenizer that cannot transcribe.
    """
    rows, clips, unreadable = _read(manifest, limit)
    rows = [replace(row, language=row.language or language) for row in rows]
    languages = [row.language for row in rows]
    readings: dict[str, list[str]] = {}
    figures: dict[str, Any] = {"records": len(rows), "unreadable": unreadable}
    codes: list[np.ndarray] = []
    name = f"{manifest_name(manifest)}: {len(rows)} recordings"
    if whisper is not None:
        print(f"{name}, read by Whisper as it is", flush=True)
        readings["whisper"] = whisper.transcribe(clips, languages, whisper_silence_s)
    if tokenizer is not None:
        print(f"{name}, read through their codes and past the codebook", flush=True)
        codes = tokenizer.encode(clips)
        readings["codes"] = tokenizer.decode_text(codes, languages)
        assert tokenizer.text is not None  # decode_text refuses such a tokenizer
        readings["vectors"] = transcribe_audio(tokenizer.model, tokenizer.text, clips, languages)
    figures |= _error_rates(rows, readings)
    named = sorted({language_code(row.language) for row in rows})
    figures["by_language"] = {
        name: _error_rates(rows, readings, name) for name in named if len(named) > 1
    }
    return figures, codes


def _error_rates(
    rows: Sequence[ManifestRow], readings: dict[str, list[str]], language: str | None = None
) -> dict[str, float | int]:
    """`wer_READING` of each, and the words behind them."""
    found: dict[str, float | int] = {}
    said, languages = [row.text for row in rows], [row.language for row in rows]
    for name, texts in readings.items():
        counts = [
            count
            for row, count in zip(rows, word_errors(said, texts, languages), strict=True)
            if language in (None, language_code(row.language))
        ]
        found[f"wer_{name}"] = error_rate(counts)
        found["words"] = sum(words for _, words in counts)
    return found


def _read(manifest: Path, limit: int | None) -> tuple[list[ManifestRow], list[np.ndarray], int]:
    rows, clips, unreadable = [], [], 0
    for row in read_manifest(manifest):
        if len(rows) == limit:
            break
        if not row.text.strip():
            continue
        try:
            clips.append(read_audio(row.path))
        except AudioError as error:
            unreadable += 1
            print(f"{manifest}: {error}")
        else:
            rows.append(row)
    if not rows:
        raise DataError(f"{manifest} has no readable recording with a text")
    return rows, clips, unreadable
