"""Codes in, audio out, block by block: what has been said is kept as state, never run again."""

import time

import numpy as np
import torch
from torch import Tensor

from ..errors import VocabularyError
from .config import SpeechDecoderConfig
from .flow import FlowModel, FlowState
from .mel import HOP_SAMPLES, SAMPLE_RATE_HZ
from .vocoder import Vocoder


class VocoderStream:
    """Mel frames as they come -> samples that later frames cannot change.

    A vocoder looks `context_frames` to either side, so its audio is held back by as many frames,
    and as many earlier ones are kept. The result is that of one pass over all frames.
    """

    def __init__(self, vocoder: Vocoder):
        self._vocoder = vocoder
        self._mel: Tensor | None = None
        self._start = 0  # frame with which _mel begins
        self._done = 0  # frames whose samples were given

    @torch.no_grad()
    def feed(self, mel: Tensor, last: bool) -> Tensor:
        """Log-mels (mels, frames) -> audio (n,) that is final; all of it if these are the last."""
        self._mel = mel if self._mel is None else torch.cat([self._mel, mel], dim=1)
        context, end = self._vocoder.context_frames, self._start + self._mel.shape[1]
        ready = end if last else max(end - context, self._done)
        if ready == self._done:
            return mel.new_zeros(0)
        audio = self._vocoder(self._mel[None])[0]
        found = audio[
            (self._done - self._start) * HOP_SAMPLES : (ready - self._start) * HOP_SAMPLES
        ]
        self._done = ready
        drop = max(ready - context - self._start, 0)
        self._mel, self._start = self._mel[:, drop:], self._start + drop
        return found


class SpeechDecodeStream:
    """An utterance whose codes arrive bit by bit. Make one by `SpeechDecoder.stream`."""

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(
        self, flow: FlowModel, vocoder: Vocoder, seed: int, speaker: int, blocks_at_once: int = 1
    ):
        self._flow, self._network, self._seed, self._speaker = flow, vocoder, seed, speaker
        self.block_codes = flow.config.codes_in_block
        """Codes after which there is more audio: 10 are 0.8 s at 12.5 Hz."""
        self._chunk = self.block_codes * blocks_at_once
        self._start()

    def feed(self, codes: np.ndarray) -> np.ndarray:
        """Codes (n,), any number of them -> audio (m,), float32, that is finished by them.

        Audio comes with every whole block; the vocoder holds back its last few frames.

        Raises:
            VocabularyError: codes outside 0..K-1, or no whole numbers.
        """
        self._pending = np.concatenate([self._pending, checked_codes(codes, self._flow.config)])
        found = []
        while len(self._pending) >= self.block_codes:
            whole = len(self._pending) // self.block_codes * self.block_codes
            size = min(whole, self._chunk)
            found.append(self._step(self._pending[:size], last=False))
            self._pending = self._pending[size:]
        return _joined(found)

    def finish(self) -> np.ndarray:
        """The rest of the audio, a last partial block included. A new utterance may follow."""
        found = []
        if len(self._pending) or self._state.frames:
            found.append(self._step(self._pending, last=True))
        self._start()
        return _joined(found)

    def _start(self) -> None:
        self._pending = np.zeros(0, np.int64)
        self._state = FlowState()
        self._vocoder = VocoderStream(self._network)

    def _step(self, codes: np.ndarray, last: bool) -> np.ndarray:
        flow = self._flow
        device = flow.embedding.weight.device
        mel = torch.zeros(0, flow.config.num_mels, device=device)
        if len(codes):
            rows = torch.from_numpy(codes)[None].to(device)
            mel = flow.sample(rows, self._state, self._seed, self._speaker, flow.config.sampling)
        return self._vocoder.feed(mel.T, last).cpu().numpy()


def checked_codes(codes: np.ndarray, config: SpeechDecoderConfig) -> np.ndarray:
    """Codes (n,) as int64.

    Raises:
        VocabularyError: another shape, no whole numbers, or some outside 0..num_codes-1.
    """
    codes = np.asarray(codes)
    if codes.ndim != 1 or (codes.size and not np.issubdtype(codes.dtype, np.integer)):
        raise VocabularyError(
            f"codes have shape {codes.shape} and type {codes.dtype}; expected whole numbers (n,)"
        )
    if codes.size and not 0 <= codes.min() <= codes.max() < config.num_codes:
        raise VocabularyError(
            f"codes {codes.min()}..{codes.max()} given to a speech decoder of codes "
            f"0..{config.num_codes - 1}; tokens of a language model become codes by vocab.py"
        )
    return codes.astype(np.int64)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def feed_all(
    stream: SpeechDecodeStream, codes: np.ndarray
) -> tuple[list[np.ndarray], float | None]:
    """Audio of codes (n,) that come block by block, and seconds until the first of it.

    None where no block became audio before the end.
    """
    parts: list[np.ndarray] = []
    started, soon = time.monotonic(), None
    for start in range(0, len(codes), stream.block_codes):
        parts.append(stream.feed(codes[start : start + stream.block_codes]))
        if soon is None and len(parts[-1]):
            soon = time.monotonic() - started
    return [*parts, stream.finish()], soon
