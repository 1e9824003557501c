"""Discriminators for the adversarial training of a vocoder, and their losses.

Periods as in HiFi-GAN (Kong et al. 2020, arXiv 2010.05646), magnitude spectrograms of several
resolutions as in UnivNet (Jang et al. 2021, arXiv 2106.07889); hinge losses as in Vocos.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from .mel import magnitudes

PERIODS = (2, 3, 5, 7, 11)
RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512))
Features = list[Tensor]


class _Discriminator(nn.Module):
    """Convolutions over a picture of the audio; all layers' outputs, the verdict last."""

    def __init__(
        self,
        picture: Callable[[Tensor], Tensor],
        widths: Sequence[int],
        kernel: tuple[int, int],
        stride: tuple[int, int],
    ):
        super().__init__()
        self._picture = picture
        padding = (kernel[0] // 2, kernel[1] // 2)
        pairs = zip((1, *widths[:-1]), widths, strict=True)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(i, o, kernel, stride, padding)) for i, o in pairs
        )
        self.verdict = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, audio: Float[Tensor, "b n"]) -> Features:
        hidden, found = self._picture(audio)[:, None], []
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), 0.1)
            found.append(hidden)
        return [*found, self.verdict(hidden)]


def _folded(period: int) -> Callable[[Tensor], Tensor]:
    def picture(audio: Tensor) -> Tensor:
        padded = F.pad(audio, (0, -audio.shape[-1] % period))
        return padded.view(len(audio), -1, period)

    return picture


def _spectrogram(n_fft: int, hop: int) -> Callable[[Tensor], Tensor]:
    return lambda audio: magnitudes(F.pad(audio, (n_fft // 2, n_fft // 2)), n_fft, hop)


class Discriminators(nn.Module):
    """All discriminators; `width` scales their channels (1 is HiFi-GAN's size)."""

    def __init__(self, width: float = 1.0):
        super().__init__()
        folded = [max(int(width * n), 4) for n in (32, 128, 512, 1024)]
        seen = [max(int(width * n), 4) for n in (32, 64, 128)]
        periods = [_Discriminator(_folded(p), folded, (5, 1), (3, 1)) for p in PERIODS]
        views = [_Discriminator(_spectrogram(*r), seen, (3, 9), (2, 2)) for r in RESOLUTIONS]
        self.judges = nn.ModuleList([*periods, *views])

    def forward(self, audio: Float[Tensor, "b n"]) -> list[Features]:
        return [judge(audio) for judge in self.judges]


def discriminator_loss(real: list[Features], made: list[Features]) -> Tensor:
    """Hinge: verdicts on recordings above 1, on made audio below -1."""
    pairs = [
        F.relu(1 - r[-1]).mean() + F.relu(1 + m[-1]).mean() for r, m in zip(real, made, strict=True)
    ]
    return torch.stack(pairs).mean()


def adversarial_loss(made: list[Features]) -> Tensor:
    """What the vocoder wants: high verdicts."""
    return torch.stack([F.relu(1 - features[-1]).mean() for features in made]).mean()


def feature_loss(real: list[Features], made: list[Features]) -> Tensor:
    """Mean distance of the discriminators' inner layers on recording and made audio."""
    distances = [
        F.l1_loss(m, r.detach())
        for one, other in zip(real, made, strict=True)
        for r, m in zip(one[:-1], other[:-1], strict=True)
    ]
    return torch.stack(distances).mean()
