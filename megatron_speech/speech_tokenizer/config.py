"""Shape of a speech tokenizer, in the field names of the released GLM-4-Voice tokenizer."""

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal, get_args, get_type_hints

from ..audio import HOP_SAMPLES, SAMPLE_RATE_HZ
from ..errors import ConfigError

CONV_STRIDE = 2
_ARCHITECTURE = "WhisperVQForConditionalGeneration"


@dataclass(frozen=True, kw_only=True)
class SpeechTokenizerConfig:
    """Whisper with pooling and vector quantization inside its encoder (paper section 2.1).

    Layers 1..pooling_position run at 50 Hz, the rest after the pool. The vectors behind layer
    `quantize_position` are quantized; what lies above serves training and transcription only.
    """

    d_model: int = 1280
    """Width; also the width of the codes."""
    encoder_layers: int = 32
    """Encoder layers in all, below and above the quantizer."""
    encoder_attention_heads: int = 20
    """Attention heads of each encoder layer."""
    encoder_ffn_dim: int = 5120
    """Feed-forward width of the encoder."""
    decoder_layers: int = 32
    """Layers of the text decoder."""
    decoder_attention_heads: int = 20
    """Attention heads of each decoder layer."""
    decoder_ffn_dim: int = 5120
    """Feed-forward width of the decoder."""
    num_mel_bins: int = 128
    """Mel bands of the input."""
    mel_dynamic_range: Literal["fixed", "clip_maximum"] = "clip_maximum"
    """Floor of the log-mel: a fixed level (causal), or 80 dB below the clip's maximum (Whisper)."""
    max_source_positions: int = 1500
    """Encoder positions at 50 Hz: 30 s."""
    max_target_positions: int = 448
    """Longest text, in tokens."""
    vocab_size: int = 51866
    """Text tokens of the decoder; set from the text tokenizer in training."""
    decoder_start_token_id: int = 50258
    """First token fed to the decoder; set from the text tokenizer in training."""
    eos_token_id: int = 50257
    """Token that ends a text; set from the text tokenizer in training."""
    ctc_head: bool = False
    """A linear CTC output beside the decoder, on the pooled frames; training sets it where the
    loss has a weight."""
    asr_decoding: Literal["attention", "ctc"] = "attention"
    """How text is read off: by the decoder, token by token, or by the CTC output in one pass."""
    init_std: float = 0.02
    """Standard deviation of the initial weights."""
    pooling_kernel_size: int = 4
    """Frames of 50 Hz averaged into one: 1, 2, 4, 8 give 50, 25, 12.5, 6.25 Hz."""
    pooling_type: Literal["avg", "max"] = "avg"
    """How frames are pooled."""
    pooling_position: int = 16
    """Encoder layers before the pool."""
    quantizer: Literal["vq", "fsq"] = "vq"
    """vq: a codebook of vectors that follows the data. fsq: finite scalar quantization, a grid."""
    quantize_vocab_size: int | None = 16384
    """Codes K in the codebook; none trains without quantization. With fsq the product of
    `fsq_levels`, whatever is given here."""
    fsq_levels: tuple[int, ...] = (8, 8, 8, 6, 5)
    """Levels of each of fsq's dimensions."""
    quantize_code_dim: int | None = None
    """Directions in which vectors are compared with codes: those that the training loss feels most,
    at most d_model. None compares whole vectors, as the paper and the released layout do."""
    quantize_position: int = 16
    """Encoder layers before the quantizer."""
    quantize_lookup: Literal["exact", "released"] = "exact"
    """How the nearest code is found: exactly, or by the released code's arithmetic, whose distances
    are rounded in the model's dtype. A folder in the released layout that does not say is read as
    `released`."""
    quantize_commit_coefficient: float = 0.25
    """Weight of the commitment loss, times `quantize_loss_scale`."""
    quantize_loss_scale: float = 10.0
    """Scale of the commitment loss."""
    quantize_ema_decay: float = 0.99
    """Decay of the codebook's moving averages."""
    quantize_restart_interval: int | None = 100
    """Steps between restarts of dead codes; none never restarts."""
    quantize_restart_threshold: float | None = None
    """Codes whose average count per step is below this are dead; none means decay**interval, which
    smoothing keeps an unused code above for one interval: it restarts after two."""
    quantize_encoder_only: bool = False
    """The model ends at the quantizer (a tokenizer for inference)."""
    quantize_causal_encoder: bool = False
    """Strictly causal attention up to the quantizer."""
    quantize_causal_block_size: int | None = 100
    """Block of the block-causal attention up to the quantizer, in frames of 50 Hz; none is full."""
    encoder_causal_attention: bool = False
    """Strictly causal attention in the whole encoder."""
    encoder_causal_convolution: bool = True
    """Convolutions pad on the left only."""
    skip_language_detection: bool = True
    """Kept for the released layout; unused."""

    def __post_init__(self) -> None:
        self._check_order()
        rate = Fraction(SAMPLE_RATE_HZ, HOP_SAMPLES * CONV_STRIDE * self.pooling_kernel_size)
        if rate.denominator & (rate.denominator - 1):
            raise ConfigError(
                f"--pooling-kernel-size {self.pooling_kernel_size} gives {rate} codes per second, "
                "which is not exact in binary; use 1, 2, 4, 5, 8 or 10"
            )
        block = self.quantize_causal_block_size
        if block is not None and (block < 1 or block % self.pooling_kernel_size):
            raise ConfigError(
                f"--quantize-causal-block-size {block} must be a positive multiple of "
                f"--pooling-kernel-size {self.pooling_kernel_size}"
            )
        for side in ("encoder", "decoder"):
            heads = getattr(self, f"{side}_attention_heads")
            if self.d_model % heads:
                raise ConfigError(f"--d-model {self.d_model} is not divisible by {heads} heads")
        if self.asr_decoding == "ctc" and not self.ctc_head:
            raise ConfigError("--asr-decoding ctc needs a CTC output; train with --ctc-weight > 0")
        if not 0 < self.quantize_ema_decay < 1:
            raise ConfigError(f"--quantize-ema-decay is {self.quantize_ema_decay}; expected 0..1")
        if self.quantizer == "fsq" and self.quantize_vocab_size is not None:
            if not 1 <= len(self.fsq_levels) <= self.d_model or min(self.fsq_levels) < 2:
                raise ConfigError(
                    f"--fsq-levels is {self.fsq_levels}; expected 1 to {self.d_model} numbers >= 2"
                )
            object.__setattr__(self, "quantize_vocab_size", math.prod(self.fsq_levels))
        dim = self.quantize_code_dim
        if dim is not None and (self.quantizer != "vq" or dim < 1):
            raise ConfigError(
                f"--quantize-code-dim is {dim} and --quantizer {self.quantizer}; expected 1 or "
                "more, and vq"
            )
        if self.quantize_vocab_size is not None and self.quantize_vocab_size < 2:
            raise ConfigError(f"--quantize-vocab-size is {self.quantize_vocab_size}; expected >= 2")

    def _check_order(self) -> None:
        if not 0 <= self.pooling_position <= self.quantize_position <= self.encoder_layers:
            raise ConfigError(
                f"--pooling-position {self.pooling_position}, --quantize-position "
                f"{self.quantize_position} and --encoder-layers {self.encoder_layers} must not "
                "decrease: the pool comes before the quantizer"
            )
        if not 1 <= self.pooling_kernel_size <= self.max_source_positions:
            raise ConfigError(
                f"--pooling-kernel-size is {self.pooling_kernel_size}; expected 1 to "
                f"--max-source-positions {self.max_source_positions}"
            )

    @property
    def code_width(self) -> int:
        """Width of a row of vq's codebook."""
        return min(self.quantize_code_dim or self.d_model, self.d_model)

    @property
    def frame_rate_hz(self) -> float:
        """Codes per second of audio, exact."""
        return SAMPLE_RATE_HZ / (HOP_SAMPLES * CONV_STRIDE * self.pooling_kernel_size)

    @property
    def mel_frames_per_code(self) -> int:
        """Mel frames (100 Hz) that make one code."""
        return CONV_STRIDE * self.pooling_kernel_size

    @property
    def samples_per_code(self) -> int:
        """Audio samples that make one code."""
        return HOP_SAMPLES * self.mel_frames_per_code

    @property
    def codes_per_window(self) -> int:
        """Codes of one full window: 30 s in Whisper, at 6.25 Hz its 187 whole codes (29.92 s)."""
        return self.max_source_positions // self.pooling_kernel_size

    @property
    def code_positions(self) -> int:
        """Rows of embed_positions2, as in the released layout: a last partial code counts."""
        return -(-self.max_source_positions // self.pooling_kernel_size)

    @property
    def window_samples(self) -> int:
        """Longest audio handled at once; longer audio is cut, and the codes are joined."""
        return self.codes_per_window * self.samples_per_code

    @property
    def restart_threshold(self) -> float:
        """Average count per step below which a code is dead (paper section 2.2)."""
        if self.quantize_restart_threshold is not None:
            return self.quantize_restart_threshold
        return self.quantize_ema_decay ** (self.quantize_restart_interval or 0)

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`, in the released layout; what it has no field for is there
        only where it is used."""
        fields = asdict(self)
        if self.quantizer == "vq":
            del fields["quantizer"], fields["fsq_levels"]
        if self.quantize_code_dim is None:
            del fields["quantize_code_dim"]
        return {
            "architectures": [_ARCHITECTURE],
            "model_type": "whisper",
            "is_encoder_decoder": True,
            "activation_function": "gelu",
            "pad_token_id": self.eos_token_id,
            "bos_token_id": self.eos_token_id,
            **fields,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SpeechTokenizerConfig":
        """Read a `config.json`; fields we do not use are ignored.

        Raises:
            ConfigError: values that do not make a speech tokenizer.
        """
        if "quantize_vocab_size" not in values:
            raise ConfigError(
                "config.json has no quantize_vocab_size: this is no speech tokenizer folder"
            )
        if values.get("activation_function", "gelu") != "gelu":
            raise ConfigError(
                f"config.json has activation_function {values['activation_function']!r}; expected "
                "gelu, as in Whisper"
            )
        hints = get_type_hints(cls)
        known = {name: value for name, value in values.items() if name in hints}
        # None stands for no pooling, and for a codebook that was trained by gradient.
        for name, stand_in in (("pooling_kernel_size", 1), ("quantize_ema_decay", 0.99)):
            if name in known and known[name] is None:
                known[name] = stand_in
        if "mel_dynamic_range" not in known:
            known = {"quantize_lookup": "released", **known}
        for name, value in known.items():
            _check_type(name, value, hints[name])
        if "fsq_levels" in known:
            known["fsq_levels"] = _levels(known)
        return cls(**known)


def _levels(values: dict[str, Any]) -> tuple[int, ...]:
    """Levels of fsq from a `config.json`; with fsq their product must be its number of codes."""
    levels = values["fsq_levels"]
    if not isinstance(levels, list | tuple) or not all(type(level) is int for level in levels):
        raise ConfigError(f"config.json says fsq_levels = {levels!r}; expected whole numbers")
    codes = values["quantize_vocab_size"]
    if values.get("quantizer") == "fsq" and codes not in (None, math.prod(levels)):
        raise ConfigError(
            f"config.json contradicts itself: quantize_vocab_size {codes} is not the product of "
            f"fsq_levels {list(levels)}"
        )
    return tuple(levels)


def _check_type(name: str, value: Any, hint: Any) -> None:
    allowed = get_args(hint) or (hint,)
    if all(isinstance(choice, str) for choice in allowed):  # Literal
        fits = value in allowed
    elif all(type(choice) is type for choice in allowed):
        kinds = (*allowed, int) if float in allowed else allowed
        fits = isinstance(value, kinds) and (bool in allowed or not isinstance(value, bool))
    else:
        return
    if not fits:
        expected = " or ".join(str(getattr(choice, "__name__", choice)) for choice in allowed)
        raise ConfigError(f"config.json says {name} = {value!r}; expected {expected}")
