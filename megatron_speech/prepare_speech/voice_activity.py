"""Where somebody speaks: Silero's network for voice activity, with the weights of its wheel.

The wheel of `silero-vad` (the extra `raw-audio`) brings weights; the network is written out here,
so that torchaudio is not needed and half a minute is computed at once, where the package's own loop
takes 32 ms after 32 ms. (Its safetensors are of an older training than its TorchScript, of which
only the weights are read.) Source: https://github.com/snakers4/silero-vad
"""

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..speech_tokenizer.features import cut_windows

FRAME_SAMPLES = 512
"""One probability for 32 ms of 16 kHz."""
FRAME_S = FRAME_SAMPLES / 16_000
_CONTEXT, _AHEAD = 64, 64
_FRAMES_AT_ONCE = 960
_WEIGHTS = "silero_vad.jit"
_NAMES = {
    "stft.forward_basis_buffer": "stft_conv.weight",
    **{
        f"encoder.{n}.reparam_conv.{kind}": f"conv{n + 1}.{kind}"
        for n in range(4)
        for kind in ("weight", "bias")
    },
    **{
        f"decoder.rnn.{kind}": f"lstm.{kind}_l0"
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    },
    "decoder.decoder.2.weight": "final_conv.weight",
    "decoder.decoder.2.bias": "final_conv.bias",
}
"""Of the wheel's tensors, ours."""


class VoiceActivity(nn.Module):
    """Audio to the probability of speech in every 32 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    @classmethod
    def from_package(cls) -> "VoiceActivity":
        """With the weights of the installed `silero-vad`.

        Raises:
            ConfigError: it is not installed, or holds other weights.
        """
        found = importlib.util.find_spec("silero_vad")
        path = Path(found.origin).parent / "data" / _WEIGHTS if found and found.origin else None
        if path is None or not path.is_file():
            raise ConfigError(
                f"voice activity needs silero-vad with {_WEIGHTS}: "
                "pip install -c constraints.txt -e '.[raw-audio]'"
            )
        theirs = torch.jit.load(str(path), map_location="cpu").state_dict()
        named = {name.removeprefix("_model."): tensor for name, tensor in theirs.items()}
        weights = {ours: named[name] for name, ours in _NAMES.items() if name in named}
        model = cls()
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ConfigError(
                f"{path} holds another network than the one known here ({error}); install the "
                "version of silero-vad that constraints.txt names"
            ) from None
        return model.eval()

    @torch.no_grad()
    def probabilities(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        """Blocks (n,) of 16 kHz audio -> the probability of speech in each 32 ms, (frames,).

        What is missing of the last frame counts as silence.
        """
        context, state = torch.zeros(_CONTEXT), None
        found: list[torch.Tensor] = []
        for piece in _whole_frames(blocks):
            audio = torch.cat([context, piece])
            context = audio[-_CONTEXT:]
            frames = audio.unfold(0, _CONTEXT + FRAME_SAMPLES, FRAME_SAMPLES)
            hidden, state = self.lstm(self._features(frames)[:, None], state)
            found.append(torch.sigmoid(self.final_conv(hidden.relu().mT)[:, 0, 0]))
        return torch.cat(found).numpy() if found else np.zeros(0, np.float32)

    def _features(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (n, 576) -> what the recurrent layer gets, (n, 128)."""
        padded = F.pad(frames[:, None], (0, _AHEAD), mode="reflect")
        real, imaginary = self.stft_conv(padded).chunk(2, dim=1)
        hidden = (real.square() + imaginary.square()).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            hidden = layer(hidden).relu()
        return hidden[..., 0]


def _whole_frames(blocks: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
    for window in cut_windows(blocks, _FRAMES_AT_ONCE * FRAME_SAMPLES):
        yield F.pad(torch.from_numpy(window), (0, -len(window) % FRAME_SAMPLES))
