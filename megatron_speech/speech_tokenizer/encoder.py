"""Whisper's encoder made block-causal, with pooling and quantization inside (paper section 2)."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .config import CONV_STRIDE, SpeechTokenizerConfig
from .fsq import FiniteScalarQuantizer
from .projected import ProjectedVectorQuantizer
from .quantizer import Quantized, Quantizer, VectorQuantizer


def _quantizer(config: SpeechTokenizerConfig) -> Quantizer:
    if config.quantizer == "fsq":
        return FiniteScalarQuantizer(config)
    whole = config.quantize_code_dim is None
    return VectorQuantizer(config) if whole else ProjectedVectorQuantizer(config)


def whisper_config(config: SpeechTokenizerConfig, attention: str = "eager") -> WhisperConfig:
    """The transformers config that our Whisper modules are built from."""
    names = (
        "d_model encoder_layers encoder_attention_heads encoder_ffn_dim decoder_layers "
        "decoder_attention_heads decoder_ffn_dim num_mel_bins max_source_positions "
        "max_target_positions vocab_size init_std decoder_start_token_id eos_token_id"
    )
    whisper = WhisperConfig(
        **{name: getattr(config, name) for name in names.split()},
        pad_token_id=None,  # padding is masked; a padding row would not be trained
        bos_token_id=config.eos_token_id,
    )
    whisper._attn_implementation = attention
    return whisper


def attention_mask(
    valid: Bool[Tensor, "batch time"], block_size: int | None, causal: bool, dtype: torch.dtype
) -> Float[Tensor, "batch 1 time time"]:
    """Additive mask (batch, 1, time, time): padding AND (lower triangle OR same block).

    `valid` (batch, time) is False on padding. Without block size: the lower triangle if `causal`,
    else padding only.
    """
    allowed = valid[:, None, None, :]
    if block_size is not None or causal:
        time = torch.arange(valid.shape[1], device=valid.device)
        reachable = time[None, :] <= time[:, None]
        if block_size is not None and not causal:
            block = time // block_size
            reachable = reachable | (block[None, :] == block[:, None])
        allowed = allowed & reachable
    else:
        allowed = allowed.expand(-1, -1, valid.shape[1], -1)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=valid.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


class LowerOutput(NamedTuple):
    """What lies below the quantizer, for B clips of T codes and F frames of 50 Hz, width D."""

    hidden: Tensor
    """The vectors that get quantized, (B, T, D)."""
    valid: Tensor
    """False on padding, (B, T)."""
    frames: Tensor
    """The frames before the pool, (B, F, D)."""
    frames_valid: Tensor
    """False on padding, (B, F)."""


@dataclass
class EncoderOutput:
    """Result of the encoder for B clips of at most T codes, width D."""

    hidden: Tensor
    """Output of the last layer, (B, T, D)."""
    valid: Tensor
    """False on padding, (B, T)."""
    quantized: Quantized | None
    """Codes and commitment loss; None where the quantizer is off."""
    lower: LowerOutput
    """What lies below the quantizer."""


class SpeechTokenizerEncoder(WhisperEncoder):
    """Conv, lower layers, pool, quantizer, upper layers.

    Tensor names are Whisper's plus `embed_positions2` and the quantizer's, so released weights fit.
    """

    def __init__(self, config: SpeechTokenizerConfig, attention: str = "eager"):
        whole = config
        if config.quantize_encoder_only:
            whole = replace(config, encoder_layers=config.quantize_position)
        super().__init__(whisper_config(whole, attention))
        self.shape = config
        if config.quantize_encoder_only:
            self.layer_norm = nn.Identity()
        self.embed_positions2 = nn.Embedding(config.code_positions, config.d_model)
        with torch.no_grad():
            self.embed_positions2.weight.copy_(self.embed_positions.weight[: config.code_positions])
        self.quantizer: Quantizer | None = None
        if config.quantize_vocab_size is not None:
            self.quantizer = _quantizer(config)

    def forward(
        self,
        mel: Float[Tensor, "batch bins frames"],
        mel_lengths: Int64[Tensor, " batch"],
        quantize: bool = True,
        learn_codes: bool = True,
    ) -> EncoderOutput:
        """Log-mels (B, bins, frames), their valid frames (B,) -> EncoderOutput.

        `frames` is a multiple of the mel frames per code. `quantize=False` passes the vectors on
        as they are (the first part of training); `learn_codes=False` gives what makes the codes
        no gradient.
        """
        with torch.set_grad_enabled(learn_codes and torch.is_grad_enabled()):
            lower = self.lower(mel, mel_lengths)
        hidden, valid = lower.hidden, lower.valid
        quantized = None
        if quantize and self.quantizer is not None:
            with torch.autocast(hidden.device.type, enabled=False):  # rounding would move codes
                quantized = self.quantizer(hidden, valid)
            hidden = quantized.vectors.to(hidden.dtype)
        return EncoderOutput(self.upper(hidden, valid), valid, quantized, lower)

    def lower(
        self, mel: Float[Tensor, "batch bins frames"], mel_lengths: Int64[Tensor, " batch"]
    ) -> LowerOutput:
        """Layers below the quantizer: log-mels and their valid frames, as in `forward`."""
        shape = self.shape
        hidden = F.gelu(self._convolve(self.conv1, mel))
        hidden = F.gelu(self._convolve(self.conv2, hidden)).transpose(1, 2)
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        frames = torch.arange(mel.shape[-1], device=mel.device)
        valid = (frames < mel_lengths[:, None])[:, ::CONV_STRIDE]
        block, pool = shape.quantize_causal_block_size, shape.pooling_kernel_size
        causal = shape.encoder_causal_attention or shape.quantize_causal_encoder
        mask = attention_mask(valid, block, causal, hidden.dtype)
        for layer in self.layers[: shape.pooling_position]:
            hidden = layer(hidden, mask)
        frames, frames_valid = hidden, valid
        hidden, valid = self._pool(hidden), valid[:, ::pool]
        if shape.quantize_position > shape.pooling_position:
            mask = attention_mask(valid, block and block // pool, causal, hidden.dtype)
        for layer in self.layers[shape.pooling_position : shape.quantize_position]:
            hidden = layer(hidden, mask)
        return LowerOutput(hidden, valid, frames, frames_valid)

    def upper(
        self, hidden: Float[Tensor, "batch codes width"], valid: Bool[Tensor, "batch codes"]
    ) -> Float[Tensor, "batch codes width"]:
        """Layers above the quantizer: (B, T, D) vectors of codes -> (B, T, D)."""
        hidden = hidden + self.embed_positions2.weight[: hidden.shape[1]]
        mask = attention_mask(valid, None, self.shape.encoder_causal_attention, hidden.dtype)
        for layer in self.layers[self.shape.quantize_position :]:
            hidden = layer(hidden, mask)
        return self.layer_norm(hidden)

    def _convolve(self, conv: nn.Conv1d, x: Tensor) -> Tensor:
        padding = (1, 1)
        if self.shape.encoder_causal_convolution:
            padding = (conv.kernel_size[0] - 1, 0)
        return F.conv1d(F.pad(x, padding), conv.weight, conv.bias, stride=conv.stride)

    def _pool(self, hidden: Tensor) -> Tensor:
        """(B, n*pool, D) -> (B, n, D). A last partial group includes its padded frames."""
        batch, frames, width = hidden.shape
        pool = self.shape.pooling_kernel_size
        groups = hidden.reshape(batch, frames // pool, pool, width)
        return groups.mean(dim=2) if self.shape.pooling_type == "avg" else groups.amax(dim=2)
