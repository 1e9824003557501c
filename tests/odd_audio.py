"""Recordings as they come: odd ones that must be read, and bad ones that must be set aside."""

import io
from pathlib import Path

import numpy as np
import soundfile

from megatron_speech.data.manifest import ManifestRow

ODD = {
    "eight_channels.wav": 3.0,
    "four_bits.wav": 3.0,
    "192khz.wav": 3.0,
    "mislabelled.wav": 3.0,
    "one_sample.wav": 1 / 16_000,
}
"""Names and seconds (four bits a sample come in whole blocks, up to 0.1 s more)."""

BAD = {
    "nan.wav": "not_finite",
    "empty.wav": "empty",
    "silent.wav": "silent",
    "cut.flac": "unreadable",
    "text.wav": "unreadable",
    "gone.wav": "missing",
}
"""Names and the reasons for which they are set aside."""


def write_odd_audio(folder: Path) -> list[ManifestRow]:
    """Write all of them; one row each in the order above, with text and without duration."""
    noise = np.random.default_rng(1).standard_normal(48_000)
    tone = (0.3 * np.sin(np.arange(48_000) / 3000) * noise).astype(np.float32)

    def write(name: str, audio: np.ndarray, rate_hz: int = 16_000, **options) -> None:
        soundfile.write(folder / name, audio, rate_hz, **options)

    write("eight_channels.wav", np.stack([tone] * 8, axis=1))
    write("four_bits.wav", tone, subtype="IMA_ADPCM")
    write("192khz.wav", np.repeat(tone, 12), 192_000)
    write("mislabelled.wav", tone, format="FLAC")
    write("one_sample.wav", tone[:1] + 0.5)
    nan = tone.copy()
    nan[-1] = np.nan  # found after windows of it were encoded
    write("nan.wav", nan, subtype="FLOAT")
    write("empty.wav", tone[:0])
    write("silent.wav", tone * 0)
    stream = io.BytesIO()
    soundfile.write(stream, np.concatenate([tone] * 4), 16_000, format="FLAC")
    (folder / "cut.flac").write_bytes(stream.getvalue()[:-9000])
    (folder / "text.wav").write_bytes(b"text")
    return [ManifestRow(id=name, path=folder / name, text="a word") for name in (*ODD, *BAD)]


def write_three_hours(path: Path) -> Path:
    """Three hours of noise in one file: 86 MB at 8 kHz, 8 bits."""
    minute = 0.2 * np.random.default_rng(0).standard_normal(8_000 * 60)
    with soundfile.SoundFile(path, "w", 8_000, 1, "PCM_U8", format="WAV") as file:
        for _ in range(180):
            file.write(minute)
    return path
