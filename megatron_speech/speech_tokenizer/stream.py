"""Codes while the audio is still coming: the encoder block by block, with cached attention.

A frame attends to the past and to its own block (paper section 2.3), convolutions look back only,
and a log-mel frame sees 25 ms. So once the samples of a block are there its codes are final, and
keys and values of the past are all that later blocks need of it. A window of 30 s bounds the past.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..audio import HOP_SAMPLES, WINDOW_SAMPLES, mel_log_power, scale_log_mel
from ..errors import ConfigError
from .config import CONV_STRIDE, SpeechTokenizerConfig
from .features import checked_clip
from .model import SpeechTokenizerModel

_FRAME_SAMPLES = HOP_SAMPLES * CONV_STRIDE
_CONV_PAST = 2  # what a causal kernel of 3 sees before its own position
_MEL_PAST = 3  # mel frames before 2 f - 1 that both convolutions see for a frame f of 50 Hz


class _AttentionCache:
    """Keys and values of one layer, (1, heads, frames so far, head width) each."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        """Append; return all. The signature is that of a transformers cache."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values


class _Mel:
    """Log-mel frames of one window, computed from its samples as they come.

    With a fixed floor a frame is what it is offline. Whisper's floor follows the clip's maximum,
    which later audio may raise: here it follows the maximum so far.
    """

    def __init__(self, config: SpeechTokenizerConfig, device: torch.device):
        self.samples = torch.zeros(config.window_samples, device=device)
        self.config = config
        self.past = torch.zeros(config.num_mel_bins, 0, device=device)  # log powers, unfloored
        self.frames = 0
        self.maximum: Tensor | None = None

    def until(self, frame: int, clip_samples: int | None) -> Tensor:
        """Frames up to `frame` (bins, past + new), led by the last few of the call before.

        `clip_samples` is the length of the clip with its padding once that is known.
        """
        half = WINDOW_SAMPLES // 2
        first = self.frames * HOP_SAMPLES - half
        index = torch.arange(first, (frame - 1) * HOP_SAMPLES + half, device=self.samples.device)
        end = len(self.samples) if clip_samples is None else clip_samples
        if self.config.mel_dynamic_range == "clip_maximum":  # mirrored at both ends
            index = index.abs()
            padded = self.samples[torch.where(index < end, index, 2 * (end - 1) - index)]
        else:
            inside = (index >= 0) & (index < end)
            padded = torch.where(inside, self.samples[index.clamp(0, end - 1)], 0.0)
        new = mel_log_power(padded[None], self.config.num_mel_bins)[0]
        self.frames = frame
        maximum = None
        if self.config.mel_dynamic_range == "clip_maximum":
            highest = new.max() if self.maximum is None else torch.maximum(self.maximum, new.max())
            self.maximum = maximum = highest
        powers = torch.cat([self.past, new], dim=1)
        self.past = powers[:, -_MEL_PAST:]
        return scale_log_mel(powers, maximum)


class Tokenizer(Protocol):
    """What a stream needs of a `SpeechTokenizer`."""

    model: SpeechTokenizerModel
    config: SpeechTokenizerConfig

    @property
    def num_codes(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def codes_of(self, hidden: Tensor) -> Tensor: ...


class SpeechTokenStream:
    """Audio in chunks of any size -> codes. Make one by `SpeechTokenizer.stream`.

    With `mel_dynamic_range` "fixed" the codes are those of `SpeechTokenizer.encode` on the whole
    clip. With "clip_maximum", the rule of released tokenizers, they differ where the clip gets
    louder later on: docs/speech_tokenizer.md says how often.
    """

    def __init__(self, tokenizer: Tokenizer):
        config = tokenizer.config
        causal = config.encoder_causal_attention or config.quantize_causal_encoder
        if not config.encoder_causal_convolution:
            raise ConfigError("this speech tokenizer's convolutions look ahead: it cannot stream")
        if config.quantize_causal_block_size is None and not causal:
            raise ConfigError(
                "this speech tokenizer attends to the whole clip (no quantize_causal_block_size): "
                "it cannot stream"
            )
        tokenizer.num_codes  # noqa: B018 - refuses models without a codebook
        self.tokenizer = tokenizer
        self.config = config
        self.causal = causal
        block = None if causal else config.quantize_causal_block_size
        self.block_frames = block or config.pooling_kernel_size
        self._encoder = tokenizer.model.encoder
        self._window_frames = config.codes_per_window * config.pooling_kernel_size
        self._start_window()

    def feed(self, chunk: np.ndarray) -> np.ndarray:
        """Mono 16 kHz floats (n,) -> codes (m,), int64, of the blocks that they complete.

        Raises:
            AudioError: more than one channel, no floats, NaN or infinite samples.
        """
        chunk = np.asarray(chunk)
        if chunk.ndim == 1 and not chunk.size:
            return np.zeros(0, np.int64)
        rest = torch.from_numpy(checked_clip(chunk, "this chunk"))
        found = []
        while len(rest):
            part = rest[: self.config.window_samples - self._filled]
            rest = rest[len(part) :]
            self._mel.samples[self._filled : self._filled + len(part)] = part.to(self._device)
            self._filled += len(part)
            found += self._complete_blocks()
            if self._filled == self.config.window_samples:
                self._start_window()
        return _joined(found)

    def finish(self) -> np.ndarray:
        """Codes of what is left, the last of them padded with silence. A new clip may follow."""
        found = []
        valid = -(-self._filled // _FRAME_SAMPLES)
        if valid > self._done:
            pool = self.config.pooling_kernel_size
            stop = -(-valid // pool) * pool
            found.append(self._step(stop, valid, clip_samples=stop * _FRAME_SAMPLES))
        self._start_window()
        return _joined(found)

    @property
    def _device(self) -> torch.device:
        return self._mel.samples.device

    def _start_window(self) -> None:
        self._mel = _Mel(self.config, self.tokenizer.device)
        self._caches = [_AttentionCache() for _ in range(self.config.quantize_position)]
        self._filled = 0  # samples
        self._done = 0  # frames of 50 Hz

    def _complete_blocks(self) -> list[np.ndarray]:
        found = []
        while self._done < self._window_frames:
            stop = min(self._done + self.block_frames, self._window_frames)
            if stop * _FRAME_SAMPLES > self._filled:
                break
            last = stop == self._window_frames
            found.append(self._step(stop, stop, self.config.window_samples if last else None))
        return found

    @torch.no_grad()
    def _step(self, stop: int, valid: int, clip_samples: int | None) -> np.ndarray:
        """Codes of frames `_done` .. `stop`, of which those before `valid` are audio."""
        config, layers, start = self.config, self._encoder.layers, self._done
        # The last mel frame of a block reaches past its end; only the next block's frames see it.
        mel_stop = stop * CONV_STRIDE - (clip_samples is None)
        mel = self._mel.until(mel_stop, clip_samples)
        hidden = self._convolve(mel[None].to(self.tokenizer.dtype), first=start == 0)
        hidden = hidden + self._encoder.embed_positions.weight[start:stop]
        mask = self._mask(start, stop, valid, hidden)
        for number in range(config.pooling_position):
            hidden = layers[number](hidden, mask, past_key_values=self._caches[number])
        pool = config.pooling_kernel_size
        hidden, start, valid = self._encoder._pool(hidden), start // pool, -(-valid // pool)
        mask = self._mask(start, stop // pool, valid, hidden)
        for number in range(config.pooling_position, config.quantize_position):
            hidden = layers[number](hidden, mask, past_key_values=self._caches[number])
        self._done = stop
        return self.tokenizer.codes_of(hidden[0, : valid - start]).cpu().numpy()

    def _convolve(self, mel: Tensor, first: bool) -> Tensor:
        """Log-mel (1, bins, past + new) -> (1, new frames, width), with the past as padding."""
        conv1, conv2 = self._encoder.conv1, self._encoder.conv2
        padding = (_CONV_PAST, 0) if first else (0, 0)  # a clip begins after zeros at each conv
        hidden = F.gelu(F.conv1d(F.pad(mel, padding), conv1.weight, conv1.bias))
        hidden = F.conv1d(F.pad(hidden, padding), conv2.weight, conv2.bias, stride=CONV_STRIDE)
        return F.gelu(hidden).transpose(1, 2)

    def _mask(self, start: int, stop: int, valid: int, hidden: Tensor) -> Tensor:
        """Additive mask (1, 1, stop - start, stop) over the past and the block itself."""
        keys = torch.arange(stop, device=hidden.device)
        allowed = (keys < valid).expand(stop - start, stop)
        if self.causal:
            allowed = allowed & (keys <= keys[start:, None])
        mask = torch.zeros(allowed.shape, dtype=hidden.dtype, device=hidden.device)
        return mask.masked_fill_(~allowed, torch.finfo(hidden.dtype).min)[None, None]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
