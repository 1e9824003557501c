"""Shape of a speech decoder, and how it samples (paper section 3)."""

from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any, Literal

from ..errors import ConfigError
from .mel import HOP_SAMPLES, NUM_MELS, SAMPLE_RATE_HZ

_BLOCK_S = 0.8  # paper section 3


@dataclass(frozen=True, kw_only=True)
class FlowSamplingConfig:
    """How a spectrogram is drawn; may be changed without training anew."""

    euler_steps: int = 10
    """Steps of the Euler solver from noise to spectrogram."""
    time_schedule: Literal["cosine", "linear"] = "cosine"
    """Spacing of the steps: cosine takes small ones first."""
    guidance: float = 0.7
    """Strength w of classifier-free guidance: (1 + w) with codes - w without. 0 halves the cost."""
    temperature: float = 1.0
    """Standard deviation of the noise at the start."""

    def __post_init__(self) -> None:
        if self.euler_steps < 1:
            raise ConfigError(f"--euler-steps is {self.euler_steps}; give >= 1")
        if self.guidance < 0 or self.temperature < 0:
            raise ConfigError(
                f"--guidance {self.guidance} and --temperature {self.temperature} must be >= 0"
            )


@dataclass(frozen=True, kw_only=True)
class SpeechDecoderConfig:
    """Encoder at the rate of codes, length regulator, flow at the rate of mel frames.

    All three attend within a block of codes and to a bounded number of blocks before it, so that
    the cost of a block does not grow with what was said. What the paper does not state (every
    width, depth and look-back) is a setting.
    """

    num_codes: int = 16384
    """Codebook size K of the speech tokenizer; set from the code shards in training."""
    frame_rate_hz: float = 12.5
    """Codes per second; set from the code shards in training."""
    tokenizer_fingerprint: str = ""
    """The speech tokenizer whose codes these are; set from the code shards in training."""
    block_codes: int | None = None
    """Codes of a block; none takes 0.8 s of them, 10 at 12.5 Hz."""
    lookback_blocks: int = 8
    """Earlier blocks that a block attends to, in every layer."""
    encoder_dim: int = 512
    """Width of the encoder and of the length regulator."""
    encoder_layers: int = 6
    """Layers at the rate of codes."""
    encoder_heads: int = 8
    """Attention heads of the encoder and of the length regulator."""
    encoder_ffn_dim: int = 2048
    """Feed-forward width of the encoder and of the length regulator."""
    anchors: int = 4
    """Encodings that a code is spread to, between which its mel frames lie; 1 repeats one."""
    regulator_layers: int = 2
    """Layers at the rate of mel frames before the flow."""
    flow_dim: int = 768
    """Width of the flow's network."""
    flow_layers: int = 16
    """Its layers."""
    flow_heads: int = 12
    """Its attention heads."""
    flow_ffn_dim: int = 3072
    """Its feed-forward width."""
    conv_kernel_size: int = 7
    """Taps of the depthwise convolution in each layer; those ahead end with the block."""
    dropout: float = 0.0
    """Dropout in attention outputs and feed-forward layers while training."""
    mel_mean: float = -5.5
    """Mean of the log-mels, to normalise them."""
    mel_std: float = 2.1
    """Standard deviation of the log-mels."""
    speakers: tuple[str, ...] = ()
    """Names of the voices with an embedding; set in training by --speaker-embedding."""
    sampling: FlowSamplingConfig = field(default_factory=FlowSamplingConfig)

    def __post_init__(self) -> None:
        for name in (
            "num_codes",
            "codes_in_block",
            "anchors",
            "encoder_layers",
            "flow_layers",
            "conv_kernel_size",
        ):
            if getattr(self, name) < 1:
                flag = {"codes_in_block": "block_codes"}.get(name, name).replace("_", "-")
                raise ConfigError(f"--{flag} is {getattr(self, name)}; give >= 1")
        if self.lookback_blocks < 0 or self.regulator_layers < 0:
            raise ConfigError("--lookback-blocks and --regulator-layers must be 0 or more")
        for part in ("encoder", "flow"):
            width, heads = getattr(self, f"{part}_dim"), getattr(self, f"{part}_heads")
            if heads < 1 or width % (2 * heads):
                raise ConfigError(
                    f"--{part}-dim {width} must be a multiple of twice --{part}-heads {heads}"
                )
        if self.frame_rate_hz <= 0 or self.mel_std <= 0:
            raise ConfigError("--frame-rate-hz and --mel-std must be above 0")
        if (Fraction(SAMPLE_RATE_HZ) / Fraction(self.frame_rate_hz)).denominator != 1:
            raise ConfigError(
                f"--frame-rate-hz {self.frame_rate_hz} does not divide {SAMPLE_RATE_HZ} Hz: a code "
                "must be a whole number of samples (50, 25, 12.5 and 6.25 codes a second are)"
            )

    @property
    def samples_per_code(self) -> int:
        """Audio samples of one code at 22,050 Hz: 1764 at 12.5 Hz."""
        return int(SAMPLE_RATE_HZ / Fraction(self.frame_rate_hz))

    @property
    def codes_in_block(self) -> int:
        """`block_codes`, or as many as last 0.8 s."""
        if self.block_codes is not None:
            return self.block_codes
        return max(round(_BLOCK_S * self.frame_rate_hz), 1)

    @property
    def num_mels(self) -> int:
        """Mel bands."""
        return NUM_MELS

    def frames_until(self, codes: int) -> int:
        """Mel frames whose middle lies within the first `codes` codes."""
        return (codes * self.samples_per_code + HOP_SAMPLES // 2 - 1) // HOP_SAMPLES

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`."""
        return {
            "model_type": "megatron_speech_decoder",
            **asdict(self),
            "block_codes": self.codes_in_block,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SpeechDecoderConfig":
        """Read a `config.json`.

        Raises:
            ConfigError: it is none of a speech decoder, or has values that make none.
        """
        if values.get("model_type") != "megatron_speech_decoder":
            raise ConfigError(
                f"config.json has model_type {values.get('model_type')!r}; a speech decoder's "
                "folder is written by tools/train_speech_decoder.py"
            )
        known = {k: v for k, v in values.items() if k != "model_type"}
        try:
            known["sampling"] = FlowSamplingConfig(**known.get("sampling", {}))
            known["speakers"] = tuple(known.get("speakers", ()))
            return cls(**known)
        except TypeError as error:
            raise ConfigError(f"config.json does not make a speech decoder: {error}") from None
