"""Log-mel spectrograms of the speech decoder, and the Griffin-Lim way back from them.

22,050 Hz, 80 Slaney bands of 0 to 8000 Hz, windows of 1024 samples every 256, natural logarithm of
the magnitude (paper section 3.1), as HiFi-GAN vocoders expect them. Frame f stands for samples
256 f .. 256 f + 255: its window reaches 384 samples beyond either end.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..audio import mel_filters
from ..errors import AudioError

SAMPLE_RATE_HZ = 22_050
N_FFT = 1024
HOP_SAMPLES = 256
NUM_MELS = 80
HIGHEST_HZ = 8000.0
FLOOR = 1e-5
MARGIN_SAMPLES = (N_FFT - HOP_SAMPLES) // 2


def log_mel(audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch mels frames"]:
    """Log-mels of 22,050 Hz audio; frames = ceil(samples / 256), zeros lie around the audio.

    Raises:
        AudioError: no samples.
    """
    samples = audio.shape[-1]
    if not samples:
        raise AudioError("there is no audio to make a spectrogram of", reason="empty")
    behind = MARGIN_SAMPLES + -samples % HOP_SAMPLES
    return log_mel_within(F.pad(audio.float(), (MARGIN_SAMPLES, behind)))


def log_mel_within(
    padded: Float[Tensor, "batch samples"],
) -> Float[Tensor, "batch mels frames"]:
    """Log-mels of audio that comes with `MARGIN_SAMPLES` of what surrounds it at either end."""
    filters = mel_filters(SAMPLE_RATE_HZ, N_FFT, NUM_MELS, HIGHEST_HZ, padded.device)
    bands = filters.T @ magnitudes(padded, N_FFT, HOP_SAMPLES)
    return bands.clamp(min=FLOOR).log()


def magnitudes(
    audio: Float[Tensor, "batch samples"], n_fft: int, hop_samples: int
) -> Float[Tensor, "batch bins frames"]:
    """Magnitudes of the short-time spectrum of every whole window."""
    window = torch.hann_window(n_fft, device=audio.device)
    spectrum = torch.stft(
        audio, n_fft, hop_samples, window=window, center=False, return_complex=True
    )
    power = torch.view_as_real(spectrum).square().sum(dim=-1)
    return (power + 1e-10).sqrt()  # a gradient where the magnitude is 0


def griffin_lim(
    mel: Float[Tensor, "mels frames"], rounds: int = 60, seed: int = 0
) -> Float[Tensor, " samples"]:
    """Audio (256 frames,) whose spectrogram comes close to `mel`, without any training.

    Magnitudes by non-negative least squares on the filter bank, phases by the fast Griffin-Lim
    iteration (momentum 0.99).
    """
    loudness = _unmel(mel.float().exp())
    generator = torch.Generator().manual_seed(seed)
    phase = torch.rand(loudness.shape, generator=generator) * 2 * torch.pi
    angles = torch.polar(torch.ones_like(phase), phase).to(mel.device)
    previous = torch.zeros_like(angles)
    window = torch.hann_window(N_FFT, device=mel.device)
    for _ in range(rounds):
        audio = _overlap_add(loudness * angles, window)
        rebuilt = torch.stft(
            audio, N_FFT, HOP_SAMPLES, window=window, center=False, return_complex=True
        )
        angles = rebuilt + 0.99 * (rebuilt - previous)
        angles = angles / angles.abs().clamp(min=1e-8)
        previous = rebuilt
    return _overlap_add(loudness * angles, window)[MARGIN_SAMPLES:-MARGIN_SAMPLES]


def _unmel(bands: Tensor, rounds: int = 100) -> Tensor:
    """Magnitudes (bins, frames) >= 0 whose mel bands are near `bands`: multiplicative updates."""
    filters = mel_filters(SAMPLE_RATE_HZ, N_FFT, NUM_MELS, HIGHEST_HZ, bands.device)
    found = filters @ bands + 1e-8
    numerator = filters @ bands
    for _ in range(rounds):
        found = found * numerator / (filters @ (filters.T @ found)).clamp(min=1e-10)
    return found


def _overlap_add(spectrum: Tensor, window: Tensor) -> Tensor:
    """Audio (256 (frames - 1) + 1024,) of a complex spectrogram (bins, frames)."""
    frames = torch.fft.irfft(spectrum, n=N_FFT, dim=0) * window[:, None]
    return overlap_add(frames[None], window)[0]


def overlap_add(
    frames: Float[Tensor, "batch window frames"], window: Float[Tensor, " window"]
) -> Float[Tensor, "batch samples"]:
    """Windowed frames every 256 samples -> their sum, divided by the windows' summed squares."""
    count = frames.shape[-1]
    size = (1, HOP_SAMPLES * (count - 1) + N_FFT)

    def add(values: Tensor) -> Tensor:
        return F.fold(values, size, (1, N_FFT), stride=(1, HOP_SAMPLES))[:, 0, 0]

    envelope = add(window.square()[None, :, None].expand(1, N_FFT, count))
    return add(frames) / envelope.clamp(min=1e-4)
