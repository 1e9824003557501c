"""`SpeechDecoder`: codes -> audio, whole or as a stream."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..errors import CheckpointError, ConfigError
from ..io.files import read_json_object
from ..speech_tokenizer.weights import read_tensors
from .config import FlowSamplingConfig, SpeechDecoderConfig
from .flow import FlowModel
from .mel import SAMPLE_RATE_HZ
from .stream import SpeechDecodeStream
from .vocoder import Vocoder, load_vocoder, write_network

VOCODER = "vocoder"
_BLOCKS_AT_ONCE = 16


class SpeechDecoder:
    """A trained flow model with its vocoder. Make one by `from_pretrained`."""

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, flow: FlowModel, vocoder: Vocoder):
        self.flow, self.vocoder = flow.eval(), vocoder.eval()
        self.config: SpeechDecoderConfig = flow.config

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        vocoder: str | Path | None = None,
        sampling: FlowSamplingConfig | None = None,
    ) -> "SpeechDecoder":
        """Read a folder as the training exports it.

        `vocoder` is a folder to use instead of the one inside, `sampling` settings to use instead
        of the exported ones.

        Raises:
            CheckpointError: files missing or damaged, or tensors that do not fit the config.
            ConfigError: a config that makes no speech decoder.
        """
        folder = Path(folder)
        flow = load_flow(folder)
        place = Path(vocoder) if vocoder is not None else folder / VOCODER
        if vocoder is None and not place.exists():
            raise CheckpointError(
                f"{folder} has no vocoder inside; name one (--vocoder), such as the export of a "
                "vocoder recipe of tools/train_speech_decoder.py"
            )
        decoder = cls(flow, load_vocoder(place))
        if sampling is not None:
            decoder.sample_by(sampling)
        decoder.flow.to(device)
        decoder.vocoder.to(device)
        return decoder

    def save_pretrained(self, folder: str | Path) -> None:
        """Write flow and vocoder, config.json last."""
        folder = Path(folder)
        self.vocoder.save_pretrained(folder / VOCODER)
        save_flow(self.flow, folder)

    def sample_by(self, sampling: FlowSamplingConfig) -> None:
        """Draw spectrograms by other settings from now on."""
        self.config = self.flow.config = replace(self.config, sampling=sampling)

    @property
    def device(self) -> torch.device:
        return self.flow.embedding.weight.device

    @property
    def frame_rate_hz(self) -> float:
        """Codes per second."""
        return self.config.frame_rate_hz

    @property
    def num_codes(self) -> int:
        """Codebook size K; codes are 0..K-1."""
        return self.config.num_codes

    @property
    def fingerprint(self) -> str:
        """Of the speech tokenizer whose codes this decoder speaks."""
        return self.config.tokenizer_fingerprint

    def check_codes_of(self, frame_rate_hz: float, num_codes: int, fingerprint: str) -> None:
        """Refuse codes of another speech tokenizer.

        Raises:
            ConfigError: another frame rate, codebook size or fingerprint.
        """
        own = (self.frame_rate_hz, self.num_codes, self.fingerprint)
        if (frame_rate_hz, num_codes, fingerprint) != own:
            raise ConfigError(
                f"the codes are {num_codes} at {frame_rate_hz} Hz of speech tokenizer "
                f"{fingerprint}; this speech decoder was trained on {own[1]} at {own[0]} Hz of "
                f"{own[2]}. Use the tokenizer it was trained with, or train a decoder on these"
            )

    def speaker_number(self, speaker: str | None) -> int:
        """Row of a voice in the speaker table; 0, nobody in particular, for None.

        Raises:
            ConfigError: a voice the decoder has no embedding of.
        """
        if speaker is None:
            return 0
        if speaker not in self.config.speakers:
            raise ConfigError(
                f"this speech decoder knows no voice {speaker!r}; it knows "
                f"{', '.join(self.config.speakers) or 'none by name'}"
            )
        return self.config.speakers.index(speaker) + 1

    def decode(self, codes: np.ndarray, seed: int = 0, speaker: str | None = None) -> np.ndarray:
        """Codes (n,) -> mono audio (m,), float32 at 22,050 Hz; m is that of n codes within 1 hop.

        The same codes and seed give the same audio, and what `stream` gives but for rounding.

        Raises:
            VocabularyError: codes outside 0..K-1, or no whole numbers.
        """
        stream = self.stream(seed, speaker, _BLOCKS_AT_ONCE)
        return np.concatenate([stream.feed(codes), stream.finish()])

    def stream(
        self, seed: int = 0, speaker: str | None = None, blocks_at_once: int = 1
    ) -> SpeechDecodeStream:
        """A stream that takes codes as they come and gives the audio they finish."""
        number = self.speaker_number(speaker)
        return SpeechDecodeStream(self.flow, self.vocoder, seed, number, blocks_at_once)


def save_flow(flow: FlowModel, folder: Path) -> None:
    """Write weights and config.json; the config comes last."""
    write_network(folder, flow, flow.config.to_dict())


def load_flow(folder: Path) -> FlowModel:
    """Read what `save_flow` wrote; raises as `SpeechDecoder.from_pretrained`."""
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; give the folder of a speech decoder, such as the `export` "
            "folder that tools/train_speech_decoder.py writes"
        )
    flow = FlowModel(SpeechDecoderConfig.from_dict(read_json_object(path)))
    try:
        flow.load_state_dict(read_tensors(folder))
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: weights do not fit config.json: {error}") from None
    return flow.eval()
