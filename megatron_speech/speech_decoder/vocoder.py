"""Vocoders: log-mel spectrogram to waveform, by networks that look a bounded way left and right."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import CheckpointError, ConfigError
from ..io.files import read_json, write_json
from ..io.model_folders import load_weights
from ..speech_tokenizer.weights import read_tensors, write_tensors
from .mel import HOP_SAMPLES, MARGIN_SAMPLES, N_FFT, NUM_MELS, SAMPLE_RATE_HZ, overlap_add

_ISTFT = "megatron_speech_istft_vocoder"
_HIFIGAN = "hifigan"  # transformers: SpeechT5HifiGan
_LARGEST_LOG = 5.0


@dataclass(frozen=True, kw_only=True)
class IstftConfig:
    """A small vocoder in the manner of Vocos: ConvNeXt layers at the rate of mel frames."""

    dim: int = 512
    """Width."""
    layers: int = 8
    """ConvNeXt layers."""
    ffn_dim: int = 1536
    """Their inner width."""
    kernel_size: int = 7
    """Taps of each depthwise convolution, and of the first one; odd."""

    def __post_init__(self) -> None:
        if min(self.dim, self.layers, self.ffn_dim) < 1 or self.kernel_size % 2 == 0:
            raise ConfigError("an iSTFT vocoder needs sizes of at least 1 and an odd --kernel-size")


@dataclass(frozen=True, kw_only=True)
class HifiganConfig:
    """HiFi-GAN's generator (V1 by default), as transformers' SpeechT5HifiGan builds it."""

    upsample_initial_channel: int = 512
    """Channels before the first upsampling; each halves them."""
    upsample_rates: tuple[int, ...] = (8, 8, 2, 2)
    """Factors; their product is 256, the samples of a mel frame."""
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 4, 4)
    """Kernels of the upsampling."""
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    """Kernels of the residual blocks; each block has dilations 1, 3, 5."""

    def __post_init__(self) -> None:
        if (product := prod(self.upsample_rates)) != HOP_SAMPLES:
            raise ConfigError(
                f"--upsample-rates {self.upsample_rates} multiply to {product}; expected "
                f"{HOP_SAMPLES}, the samples of a mel frame"
            )


class Vocoder(nn.Module, ABC):
    """Log-mels (B, 80, F) -> audio (B, 256 F) at 22,050 Hz."""

    context_frames: int
    """Frames to either side on which a frame's samples depend at most."""
    settings: dict[str, Any]
    """What it was made with, by name: its `config.json`."""

    @abstractmethod
    def forward(self, mel: Float[Tensor, "b mels f"]) -> Float[Tensor, "b samples"]: ...

    def save_pretrained(self, folder: Path) -> None:
        """Write the folder that `load_vocoder` reads; transformers reads a HiFi-GAN's too."""
        write_network(folder, getattr(self, "generator", self), self.settings)


def write_network(folder: Path, network: nn.Module, config: dict[str, Any]) -> None:
    """Write weights, and config.json last."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, network.state_dict(), None)
    write_json(folder / "config.json", config)


class _ConvNext(nn.Module):
    def __init__(self, config: IstftConfig):
        super().__init__()
        dim, taps = config.dim, config.kernel_size
        self.conv = nn.Conv2d(dim, dim, (1, taps), padding=(0, taps // 2), groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, config.ffn_dim)
        self.down = nn.Linear(config.ffn_dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 1 / config.layers))

    def forward(self, x: Float[Tensor, "b f d"]) -> Float[Tensor, "b f d"]:
        # (B, C, 1, F) with C innermost in memory: the layout in which CPUs are fast at this.
        hidden = self.conv(x.transpose(1, 2)[:, :, None])[:, :, 0].transpose(1, 2)
        return x + self.scale * self.down(F.gelu(self.up(self.norm(hidden))))


class IstftVocoder(Vocoder):
    """Predicts magnitude and phase of every frame; the inverse STFT makes the waveform.

    After Vocos (Siuzdak 2023, arXiv 2306.00814); ours is the whole of it.
    """

    window: Tensor

    def __init__(self, config: IstftConfig):
        super().__init__()
        self.settings = {"model_type": _ISTFT, **asdict(config)}
        taps = config.kernel_size
        self.inlet = nn.Conv1d(NUM_MELS, config.dim, taps, padding=taps // 2)
        self.norm_in = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList(_ConvNext(config) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, N_FFT + 2)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        overlap = -(-MARGIN_SAMPLES // HOP_SAMPLES)
        self.context_frames = (config.layers + 1) * (taps // 2) + overlap

    def forward(self, mel: Float[Tensor, "b mels f"]) -> Float[Tensor, "b samples"]:
        hidden = self.norm_in(self.inlet(mel).transpose(1, 2))
        for layer in self.layers:
            hidden = layer(hidden)
        logs, phase = self.head(self.norm_out(hidden)).float().transpose(1, 2).chunk(2, dim=1)
        spectrum = torch.polar(logs.clamp(max=_LARGEST_LOG).exp(), phase)
        frames = torch.fft.irfft(spectrum, n=N_FFT, dim=1) * self.window[:, None]
        return overlap_add(frames, self.window)[:, MARGIN_SAMPLES:-MARGIN_SAMPLES]


class HifiganVocoder(Vocoder):
    """transformers' SpeechT5HifiGan at 22,050 Hz and 256 samples a frame."""

    def __init__(self, generator: Any):
        super().__init__()
        self.generator = generator
        self.settings = generator.config.to_dict()
        self.context_frames = _hifigan_context(generator.config)

    @classmethod
    def new(cls, config: HifiganConfig) -> "HifiganVocoder":
        """One with random weights."""
        from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

        settings = SpeechT5HifiGanConfig(
            model_in_dim=NUM_MELS,
            sampling_rate=SAMPLE_RATE_HZ,
            normalize_before=False,
            upsample_initial_channel=config.upsample_initial_channel,
            upsample_rates=list(config.upsample_rates),
            upsample_kernel_sizes=list(config.upsample_kernel_sizes),
            resblock_kernel_sizes=list(config.resblock_kernel_sizes),
            resblock_dilation_sizes=[[1, 3, 5]] * len(config.resblock_kernel_sizes),
        )
        return cls(SpeechT5HifiGan(settings))

    def forward(self, mel: Float[Tensor, "b mels f"]) -> Float[Tensor, "b samples"]:
        return self.generator(mel.transpose(1, 2)).view(len(mel), -1)


def _hifigan_context(config: Any) -> int:
    """Frames to either side that a sample depends on: what each convolution adds, from the end."""
    reach = 3.0  # samples, of conv_post with 7 taps
    kernels = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
    inside = max((k - 1) // 2 * sum(d + 1 for d in dilations) for k, dilations in kernels)
    stages = zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)
    for rate, kernel in reversed(list(stages)):
        reach = (reach + inside + kernel / 2) / rate
    return int(reach + 3) + 2


def load_vocoder(folder: Path) -> Vocoder:
    """Read a vocoder's folder: ours, or one that transformers' SpeechT5HifiGan wrote.

    Raises:
        CheckpointError: no such folder, another kind of model, or weights that do not fit.
        ConfigError: a HiFi-GAN for another sample rate or another number of bands or samples.
    """
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; a vocoder's folder is SAVE/export of a vocoder recipe of "
            "tools/train_speech_decoder.py, or one of transformers' SpeechT5HifiGan"
        )
    try:
        values = read_json(path)
        kind = values.pop("model_type", None)
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from None
    if kind == _ISTFT:
        try:
            model = IstftVocoder(IstftConfig(**values))
            model.load_state_dict(read_tensors(folder))
        except (TypeError, RuntimeError) as error:
            raise CheckpointError(f"{folder}: weights or settings do not fit: {error}") from None
        return model.eval()
    if kind in (_HIFIGAN, "speecht5_hifigan"):
        return _load_hifigan(folder, values)
    raise CheckpointError(
        f"{path} has model_type {kind!r}; expected {_ISTFT} or {_HIFIGAN} (SpeechT5HifiGan)"
    )


def _load_hifigan(folder: Path, values: dict[str, Any]) -> Vocoder:
    from transformers import SpeechT5HifiGan

    if not (folder / "model.safetensors").exists():
        raise CheckpointError(f"{folder} holds no model.safetensors; pickle is not read")
    samples = prod(values.get("upsample_rates", ()))
    found = (values.get("sampling_rate"), values.get("model_in_dim"), samples)
    if found != (SAMPLE_RATE_HZ, NUM_MELS, HOP_SAMPLES):
        raise ConfigError(
            f"{folder} makes {found[0]} Hz from {found[1]} bands with {found[2]} samples a frame; "
            f"expected {SAMPLE_RATE_HZ} Hz, {NUM_MELS} bands, {HOP_SAMPLES} samples"
        )
    model = load_weights(SpeechT5HifiGan, folder)
    return HifiganVocoder(model).eval()
