"""Long recordings of speech, music, noise and silence, and what is where in them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from megatron_speech.audio import SAMPLE_RATE_HZ, read_audio
from megatron_speech.data.manifest import read_manifest
from megatron_speech.errors import AudioError, DataError
from megatron_speech.io.files import write_json

SPEECH_SHARE = 0.6
FAULTY = 0.04
RECORDINGS = 12


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What there is in a part of a recording."""

    recording: str
    start_s: float
    stop_s: float
    kind: str
    """speech, music, noise or silence."""
    text: str = ""
    language: str = ""
    fault: str = ""
    clip: str = ""


def clips_of(
    manifests: Sequence[Path], seconds: float, chance: np.random.Generator
) -> list[tuple[Any, np.ndarray]]:
    """Clips of all manifests in turn, without their silent ends, of as many seconds."""
    listed = [[*read_manifest(path)] for path in manifests]
    sources = [[rows[n] for n in chance.permutation(len(rows))] for rows in listed]
    found, left = [], seconds
    while left > 0 and any(sources):
        for rows in [rows for rows in sources if rows]:
            row = rows.pop()
            try:
                audio = read_audio(row.path)
            except AudioError:
                continue
            loud = np.flatnonzero(np.abs(audio) > 0.03 * np.abs(audio).max())
            audio = audio[loud[0] : loud[-1] + 1]
            if len(audio) > SAMPLE_RATE_HZ:
                found.append((row, (0.5 / np.abs(audio).max() * audio).astype(np.float32)))
                left -= len(audio) / SAMPLE_RATE_HZ
    if left > 0:
        raise DataError(
            f"the manifests hold {seconds - left:.0f} s of speech, {seconds:.0f} needed"
        )
    order = chance.permutation(len(found))
    return [found[n] for n in order]


def music(seconds: float, chance: np.random.Generator) -> np.ndarray:
    """Chords of decaying harmonics, a new one every half second."""
    audio = np.zeros(round(seconds * SAMPLE_RATE_HZ), np.float32)
    times = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    for start in range(0, len(audio) - SAMPLE_RATE_HZ, SAMPLE_RATE_HZ // 2):
        root = 220 * 2 ** (chance.integers(-9, 9) / 12)
        for step in (0, 4, 7):
            pitch = root * 2 ** (step / 12)
            tone = sum(np.sin(2 * np.pi * pitch * n * times) / n for n in range(1, 5))
            audio[start : start + SAMPLE_RATE_HZ] += 0.05 * tone * np.exp(-3 * times)
    return audio


def noise(seconds: float, chance: np.random.Generator) -> np.ndarray:
    """Noise that swells, its spectrum falling."""
    white = chance.standard_normal(round(seconds * SAMPLE_RATE_HZ))
    swell = 1 + np.sin(np.linspace(0, 6 * np.pi, len(white)))
    return (0.03 * swell * np.convolve(white, np.ones(4) / 4, "same")).astype(np.float32)


def silence(seconds: float, chance: np.random.Generator) -> np.ndarray:
    return 2e-4 * chance.standard_normal(round(seconds * SAMPLE_RATE_HZ)).astype(np.float32)


def spoil(audio: np.ndarray, fault: str, chance: np.random.Generator) -> np.ndarray:
    if fault == "clipped":
        return 0.5 * np.clip(8 * audio / np.abs(audio).max(), -1, 1)
    if fault == "noisy":
        power = np.sqrt(np.mean(audio**2))
        return audio + power * chance.standard_normal(len(audio)).astype(np.float32)
    return audio


def mix(manifests: Sequence[Path], hours: float, seed: int, folder: Path) -> list[Stretch]:
    """Write the recordings and return what is in them."""
    chance = np.random.default_rng(seed)
    fresh_s = hours * 3600 * 6 / 7
    clips = clips_of(manifests, fresh_s * SPEECH_SHARE, np.random.default_rng(seed))
    truth: list[Stretch] = []
    shares = np.array_split(np.arange(len(clips)), RECORDINGS)
    kinds = {"music": music, "noise": noise, "silence": silence}
    for number, own in enumerate(shares):
        name, parts, at = f"mixed-{number:02d}", list[np.ndarray](), 0
        other_s = fresh_s * (1 - SPEECH_SHARE) / RECORDINGS

        def add(audio: np.ndarray, kind: str, name=name, parts=parts, **known: str) -> None:
            nonlocal at
            start, at = at, at + len(audio)
            parts.append(audio.astype(np.float32))
            truth.append(
                Stretch(recording=name, start_s=start / SAMPLE_RATE_HZ,
                        stop_s=at / SAMPLE_RATE_HZ, kind=kind, **known)
            )  # fmt: skip

        groups = np.array_split(own, max(len(own) // 6, 1))
        for group in groups:
            for n in group:
                row, audio = clips[n]
                drawn = chance.random()
                fault = "clipped" if drawn < FAULTY else "noisy" if drawn < 2 * FAULTY else ""
                known = {"text": row.text, "language": row.language, "clip": row.id}
                add(spoil(audio, fault, chance), "speech", fault=fault, **known)
                add(silence(chance.uniform(0.3, 1.2), chance), "silence")
            for kind in chance.permutation(list(kinds)):
                add(kinds[kind](other_s / len(groups) / 3, chance), kind)
        write(folder / f"{name}.flac", np.concatenate(parts))
    repeat(folder, truth, chance)
    write_json(folder.parent / "truth.json", [asdict(each) for each in truth])
    return truth


def repeat(folder: Path, truth: list[Stretch], chance: np.random.Generator) -> None:
    """The first sixth once more, in one recording."""
    parts, at = [silence(0.337, chance)], 0.337
    for number in range(RECORDINGS // 6):
        name = f"mixed-{number:02d}"
        audio, _ = soundfile.read(folder / f"{name}.flac", dtype="float32")
        for each in [each for each in truth if each.recording == name]:
            moved = {"start_s": each.start_s + at, "stop_s": each.stop_s + at}
            truth.append(Stretch(**(asdict(each) | moved | {"recording": "repeat"})))
        parts.append(0.7 * audio)
        at += len(audio) / SAMPLE_RATE_HZ
    write(folder / "repeat.flac", np.concatenate(parts))


def write(path: Path, audio: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, SAMPLE_RATE_HZ)
