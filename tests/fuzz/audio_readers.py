"""Files of sound, read whole, in parts, and out of memory."""

import hashlib
import io
import random
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from megatron_speech.audio import Excerpt, read_audio, stream_audio
from megatron_speech.errors import AudioError
from megatron_speech.io.audio_files import duration_s, open_audio
from tests.fuzz.mutations import damaged
from tests.fuzz.reader import Expected, Found, Reader

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav-float": ("WAV", "FLOAT"),
    "wav-adpcm": ("WAV", "IMA_ADPCM"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
"""libsndfile's container and coding."""
_EXACT = ("wav", "wav-float", "rf64", "w64", "aiff", "caf", "au", "sph", "flac")
_OF_OUR_OWN = ("wav", "flac", "ogg", "opus", "mp3")


def sound(seed: int, samples: int = 6_400) -> np.ndarray:
    """A noisy tone, (samples,) float32 at 16 kHz."""
    noise = np.random.default_rng(seed).standard_normal(samples)
    return (0.2 * np.sin(np.arange(samples) / (3 + seed)) + 0.05 * noise).astype(np.float32)


def write_sound(path: Path, kind: str, seed: int = 0) -> None:
    container, coding = FORMATS[kind]
    soundfile.write(path, sound(seed), 16_000, coding, format=container)


def _make(kind: str, folder: Path) -> None:
    write_sound(folder / "a", kind, 0)
    # for splices: another of the kind, or of any kind
    write_sound(folder / "other", kind, 1)


def _damage(rng: random.Random, folder: Path) -> None:
    path, other = folder / "a", folder / "other"
    if rng.random() < 0.1:
        write_sound(other, rng.choice(list(FORMATS)), 2)
    path.write_bytes(damaged(rng, path.read_bytes(), other.read_bytes()))


def _read(kind: str, folder: Path) -> Found:
    path = folder / "a"
    with open_audio(path, "a") as file:
        frames, rate_hz = file.frames, file.rate_hz
    asked = Excerpt(rate_hz=rate_hz)
    whole, why = _waveform(path, asked)
    in_memory, why_not = _waveform(io.BytesIO(path.read_bytes()), asked)
    assert why == why_not, f"from disk: {why}; from memory: {why_not}"
    if whole is None or in_memory is None:
        raise AudioError(str(why))
    assert np.array_equal(whole, in_memory), "from memory, it sounds otherwise"
    assert len(whole) == frames, f"{len(whole)} samples, {frames} announced"
    assert abs(duration_s(path) * rate_hz - frames) < 1e-3
    middle = frames / rate_hz / 2
    first, _ = _waveform(path, Excerpt(duration_s=middle, rate_hz=rate_hz))
    second, _ = _waveform(path, Excerpt(start_s=middle, rate_hz=rate_hz))
    if first is not None and second is not None and frames > 1:
        joined = np.concatenate([first, second])
        assert len(joined) in (frames, frames - 1, frames + 1), f"halves: {len(joined)} of {frames}"
        if kind in _EXACT and len(joined) == frames:
            assert np.allclose(joined, whole), "halves sound otherwise than the whole"
    read_audio(path)  # resampled, if it is of another rate
    return Found([("a", (rate_hz, frames, hashlib.sha256(whole.tobytes()).hexdigest()))])


def _waveform(source: Path | io.BytesIO, excerpt: Excerpt) -> tuple[np.ndarray | None, str | None]:
    try:
        return np.concatenate(list(stream_audio(source, "a", excerpt))), None
    except AudioError as error:
        return None, str(error)


def _expect(kind: str, sample: Path, damaged: Path) -> Expected:
    """Sound that is merely cut off is all there, or refused: never shorter without a word."""
    whole, left = (sample / "a").read_bytes(), (damaged / "a").read_bytes()
    if left and whole.startswith(left):
        return Expected(intact=dict(_read(kind, sample).items))
    return Expected()


AUDIO = [
    Reader(
        f"audio {kind}", partial(_make, kind), _damage, partial(_read, kind), partial(_expect, kind)
    )
    for kind in FORMATS
]
