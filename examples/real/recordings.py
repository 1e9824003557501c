"""Recordings of people: which are used, with whose texts, to train or to test."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.quickstart.runner import tool
from examples.real.sizes import RealSize
from megatron_speech.data.manifest import ManifestRow, manifest_name, read_manifest, write_manifest
from megatron_speech.errors import DataError

_SEED = 23
_FEW = 20
"""Sets of fewer recordings are for tests alone."""


def split_recordings(
    folder: Path, manifests: Sequence[Path], whisper: Path, judge: Path, size: RealSize
) -> dict[str, dict[str, Any]]:
    """Write `train/NAME.parquet` and `test/NAME.parquet` of each set; what is in them, by name.

    Recordings in a language that `whisper` has not learned are left out. Texts that are missing
    are read by `judge`. Sets without usable recordings are left out with a reason.

    Raises:
        DataError: two sets of one name.
    """
    from megatron_speech.speech_tokenizer.text import AsrText

    names = [manifest_name(Path(path)) for path in manifests]
    if len(set(names)) < len(names):
        raise DataError(f"--speech has sets of the same name: {', '.join(names)}; rename some")
    text = AsrText(whisper)
    figures = {}
    for name, path in zip(names, map(Path, manifests), strict=True):
        rows = read_manifest(path)
        known = [row for row in rows if text.knows(row.language or "en")]
        random.Random(_SEED).shuffle(known)
        known = known[: size.most_recordings]
        facts: dict[str, Any] = {
            "language": ", ".join(sorted({row.language or "en" for row in rows})),
            "recordings": len(known),
            "other_languages": sum(not text.knows(row.language or "en") for row in rows),
        }
        silent = [row for row in known if not row.text.strip()]
        if silent:
            read = _transcribed(folder / "transcribed" / name, silent, judge, size)
            known = [row for row in known if row.text.strip()] + read
            random.Random(_SEED).shuffle(known)
        facts["transcribed"] = len(silent)
        count = len(known) if len(known) < _FEW else min(size.test_recordings, len(known) // 4)
        test, train = known[: min(count, size.test_recordings)], known[count:]
        for part, chosen in (("test", test), ("train", train)):
            facts[part] = len(chosen)
            if chosen:
                write_manifest(folder / part / f"{name}.parquet", chosen)
        figures[name] = facts
    return figures


def _transcribed(
    folder: Path, rows: Sequence[ManifestRow], judge: Path, size: RealSize
) -> list[ManifestRow]:
    untranscribed, read = folder / "untranscribed.parquet", folder / "manifest.parquet"
    write_manifest(untranscribed, rows)
    flags = size.transcribe_flags
    return tool("transcribe_speech", *flags, manifest=untranscribed, whisper=judge, output=read)
