"""What a vocoder is trained for: the recording's spectra, and audio that discriminators accept."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..errors import ConfigError
from ..io.rejected import Rejected
from ..training.task import Metrics
from .discriminators import (
    RESOLUTIONS,
    Discriminators,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from .flow import OnDevice
from .mel import HOP_SAMPLES, MARGIN_SAMPLES, log_mel, log_mel_within, magnitudes
from .objective import DecoderObjective
from .vocoder import Vocoder

_SAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class VocoderObjectiveConfig:
    """Losses of a vocoder. Nothing of it is stated in the paper."""

    crop_frames: int = 32
    """Mel frames of a sample: 32 are 8192 audio samples."""
    mel_loss_weight: float = 45.0
    """Weight of the distance of the log-mels."""
    stft_loss_weight: float = 1.0
    """Weight of the distances of magnitude spectra in several resolutions."""
    gan: bool = True
    """Train discriminators with the vocoder, which learns to fool them."""
    gan_start_step: int = 0
    """Steps before the discriminators are used."""
    gan_width: float = 1.0
    """Channels of the discriminators, as a share of HiFi-GAN's."""
    adversarial_loss_weight: float = 1.0
    """Weight of the adversarial loss."""
    feature_loss_weight: float = 2.0
    """Weight of the distances in the discriminators' inner layers."""

    def __post_init__(self) -> None:
        if self.crop_frames < 16 or self.gan_width <= 0 or self.gan_start_step < 0:
            raise ConfigError(
                "--crop-frames must be 16 or more, --gan-width above 0, --gan-start-step 0 or more"
            )


@dataclass(frozen=True)
class VocoderInputs(OnDevice):
    """Crops of B recordings."""

    audio: Tensor
    """(B, 256 frames)"""
    mel: Tensor
    """(B, mels, frames), made with what surrounds the crop."""


class VocoderTraining(nn.Module):
    """A vocoder with its discriminators: both sides learn in one backward pass.

    The vocoder's losses see the judges' weights as constants, the judges' loss sees the vocoder's
    audio as constant, so the gradient of each side is what alternating updates would take.
    """

    def __init__(self, vocoder: Vocoder, config: VocoderObjectiveConfig):
        super().__init__()
        self.vocoder, self.config = vocoder, config
        self.judges = Discriminators(config.gan_width) if config.gan else None

    def forward(self, batch: VocoderInputs, adversarial: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and its parts."""
        config = self.config
        made = self.vocoder(batch.mel).float()
        parts = {
            "mel loss": F.l1_loss(log_mel(made), log_mel(batch.audio)),
            "stft loss": stft_loss(made, batch.audio),
        }
        total = config.mel_loss_weight * parts["mel loss"]
        total = total + config.stft_loss_weight * parts["stft loss"]
        if self.judges is not None and adversarial:
            frozen = {name: value.detach() for name, value in self.judges.named_parameters()}
            on_real = self.judges(batch.audio)
            on_made = functional_call(self.judges, frozen, made)
            parts["adversarial loss"] = adversarial_loss(on_made)
            parts["feature loss"] = feature_loss(on_real, on_made)
            parts["judges loss"] = discriminator_loss(on_real, self.judges(made.detach()))
            total = total + config.adversarial_loss_weight * parts["adversarial loss"]
            total = total + config.feature_loss_weight * parts["feature loss"]
            total = total + parts["judges loss"]
        return total, parts


def stft_loss(made: Float[Tensor, "b n"], real: Float[Tensor, "b n"]) -> Tensor:
    """Spectral convergence and log-magnitude distance, mean over resolutions.

    After Parallel WaveGAN (Yamamoto et al. 2019, arXiv 1910.11480).
    """
    found = []
    for n_fft, hop in RESOLUTIONS:
        ours, theirs = (
            magnitudes(F.pad(audio, (n_fft // 2, n_fft // 2)), n_fft, hop) for audio in (made, real)
        )
        away = (theirs - ours).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1).clamp(1e-3)
        logs = F.l1_loss(ours.clamp(min=1e-4).log(), theirs.clamp(min=1e-4).log())
        found.append(away.clamp(max=10.0).mean() + logs)
    return torch.stack(found).mean()


class VocoderObjective(DecoderObjective[VocoderInputs]):
    """Trains `VocoderTraining`."""

    def __init__(self, config: VocoderObjectiveConfig, *material: Any):
        """`material` is that of `DecoderObjective`."""
        super().__init__(*material)
        self.config = config

    def read(
        self, indices: list[int], random: np.random.Generator
    ) -> tuple[VocoderInputs, list[Rejected]]:
        """Crops with the spectrogram that the whole recording has there."""
        utterances, broken = self.train.get(indices)
        length = self.config.crop_frames * HOP_SAMPLES
        rows = []
        for item in utterances:
            start = int(random.integers(0, max(len(item.audio) - length, 0) + 1))
            rows.append(item.excerpt(start - MARGIN_SAMPLES, start + length + MARGIN_SAMPLES))
        audio = torch.from_numpy(np.stack(rows))
        inner = audio[:, MARGIN_SAMPLES:-MARGIN_SAMPLES]
        return VocoderInputs(inner, log_mel_within(audio)), broken

    def loss(
        self, model: nn.Module, batch: VocoderInputs, iteration: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """All losses of one micro-batch."""
        total, parts = model(batch, iteration >= self.config.gan_start_step)
        return total, {name: value.detach() for name, value in parts.items()}

    def evaluate(self, model: VocoderTraining, iteration: int) -> Metrics:
        """Spectral distances of whole held-out recordings; rank 0 adds sounds and pictures."""
        if self._valid is None:
            return {}
        sums = {"mel loss": 0.0, "stft loss": 0.0}
        most = min(len(self._valid), self.data.valid_samples)
        for number in range(most):
            item = self._valid.get([number])[0][0]
            real = torch.from_numpy(item.excerpt(0, len(item.audio)))[None].to(self.device)
            mel = log_mel(real)
            made = model.vocoder(mel).float()
            sums["mel loss"] += F.l1_loss(log_mel(made), mel).item()
            sums["stft loss"] += stft_loss(made[:, : real.shape[1]], real).item()
            if number < _SAMPLES and self._board is not None and self.rank == 0:
                self._board.sound(f"vocoder/{number}", made[0], iteration)
                self._board.sound(f"recording/{number}", real[0], iteration)
                pictures = {"recording": mel[0], "vocoder": log_mel(made)[0]}
                self._board.picture(f"mel/{number}", pictures, iteration)
        return {name: value / most for name, value in sums.items()}
