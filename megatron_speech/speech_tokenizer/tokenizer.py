"""`SpeechTokenizer`: audio -> codes, and codes -> text where the upper layers are present."""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..audio import SAMPLE_RATE_HZ
from ..errors import AudioError, ConfigError, VocabularyError
from ..io.files import fingerprint_of
from ..model.code_rows import CodePoints
from . import layout
from .config import SpeechTokenizerConfig
from .features import batch_features, batches_by_length, checked_clip, to_device
from .model import SpeechTokenizerModel
from .quantizer import Quantizer
from .stream import SpeechTokenStream
from .text import AsrText

# What codes depend on: the rest of the config belongs to training and transcription.
_CODE_FIELDS = (
    "d_model encoder_attention_heads encoder_ffn_dim num_mel_bins mel_dynamic_range "
    "max_source_positions pooling_kernel_size pooling_type pooling_position quantize_vocab_size "
    "quantize_position quantize_causal_encoder quantize_causal_block_size "
    "encoder_causal_attention encoder_causal_convolution"
).split()
_BATCH_SAMPLES = 240 * SAMPLE_RATE_HZ
_CODES_PER_BATCH = 8192


class PreparedBatch(NamedTuple):
    """What the encoder takes of B windows, on its device."""

    mel: torch.Tensor
    """Log-mels (B, bins, longest), fp32."""
    lengths: torch.Tensor
    """Valid frames (B,), int64."""
    sizes: list[int]
    """Codes of each window."""


class SpeechTokenizer:
    """A trained speech tokenizer. Make one by `from_pretrained`."""

    def __init__(self, model: SpeechTokenizerModel, text: AsrText | None = None):
        self.model = model.eval()
        self.text = text
        self.config: SpeechTokenizerConfig = model.config
        self._fingerprint: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "SpeechTokenizer":
        """Read a folder in the released layout.

        `dtype` is that of the encoder; the codebook stays fp32.

        Raises:
            CheckpointError: files missing or damaged, or tensors that do not fit the config.
            ConfigError: a config that makes no speech tokenizer.
        """
        folder = Path(folder)
        model = layout.load_model(folder)
        text = None
        if not model.config.quantize_encoder_only and (folder / "tokenizer.json").exists():
            text = AsrText(folder)
        tokenizer = cls(model, text)
        if dtype != torch.float32:
            tokenizer._round_encoder(dtype)
        model.to(device)
        return tokenizer

    def _round_encoder(self, dtype: torch.dtype) -> None:
        self._fingerprint = _fingerprint(self.model)  # names the weights, not their rounding
        encoder = self.model.encoder
        quantizer, encoder.quantizer = encoder.quantizer, None
        self.model.to(dtype)
        encoder.quantizer = quantizer

    def save_pretrained(self, folder: str | Path, max_shard_bytes: int | None = None) -> None:
        """Write a folder in the released layout, in several files if `max_shard_bytes` is given.

        Raises:
            ConfigError: a model that was rounded on loading; its file would be another tokenizer.
        """
        if self.dtype != torch.float32:
            raise ConfigError(
                f"the model was loaded in {self.dtype}; load it in float32 to save it"
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.text is not None:
            self.text.save_pretrained(folder)
        layout.write_folder(folder, self.config, self.model.state_dict(), max_shard_bytes)

    @property
    def frame_rate_hz(self) -> float:
        """Codes per second of audio."""
        return self.config.frame_rate_hz

    @property
    def num_codes(self) -> int:
        """Codebook size K; codes are 0..K-1."""
        return self.quantizer.num_codes

    @property
    def quantizer(self) -> Quantizer:
        """What finds codes and places them; a ConfigError for a model trained without."""
        if self.model.encoder.quantizer is None:
            raise ConfigError("this model was trained without quantization and has no codes")
        return self.model.encoder.quantizer

    @property
    def device(self) -> torch.device:
        return self.model.encoder.conv1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the encoder's weights."""
        return self.model.encoder.conv1.weight.dtype

    @property
    def fingerprint(self) -> str:
        """Identifies weights and settings that codes depend on; the text side does not count."""
        if self._fingerprint is None:
            self._fingerprint = _fingerprint(self.model)
        return self._fingerprint

    @torch.no_grad()
    def encode(
        self, audio: Sequence[np.ndarray], sample_rate_hz: int = SAMPLE_RATE_HZ
    ) -> list[np.ndarray]:
        """Mono float32 clips (n,) in -1..1 -> codes (ceil(n / samples per code),), int64.

        Clips are cut into 30 s windows whose codes are joined. The order and number of clips do
        not matter to the result, but for rounding where two codes are equally near.

        Raises:
            AudioError: another sample rate; a clip that is empty, not mono, not of floats, or holds
                NaN, infinite samples or some far beyond full scale.
        """
        self.num_codes  # noqa: B018 - refuses models without a codebook
        if sample_rate_hz != SAMPLE_RATE_HZ:
            raise AudioError(
                f"audio has {sample_rate_hz} Hz; the speech tokenizer takes {SAMPLE_RATE_HZ} Hz. "
                "megatron_speech.audio.read_audio resamples files"
            )
        if isinstance(audio, np.ndarray | torch.Tensor) and audio.ndim == 1:
            raise AudioError("encode takes a list of clips and got one clip; put it into a list")
        windows: list[tuple[int, np.ndarray]] = []
        for index, clip in enumerate(audio):
            clip = checked_clip(clip, f"clip {index}")
            size = self.config.window_samples
            windows += [(index, clip[start : start + size]) for start in range(0, len(clip), size)]
        found = self._encode_windows([clip for _, clip in windows])
        joined: list[list[np.ndarray]] = [[] for _ in audio]
        for (index, _), codes in zip(windows, found, strict=True):
            joined[index].append(codes)
        return [np.concatenate(parts) for parts in joined]

    def _encode_windows(self, windows: list[np.ndarray]) -> list[np.ndarray]:
        results: list[np.ndarray] = [np.zeros(0, np.int64)] * len(windows)
        for batch in batches_by_length([len(w) for w in windows], _BATCH_SAMPLES):
            found = self.encode_batch(self.prepare_batch([windows[i] for i in batch]))
            for index, codes in zip(batch, found, strict=True):
                results[index] = codes
        return results

    def prepare_batch(self, windows: Sequence[np.ndarray]) -> PreparedBatch:
        """Features of float32 windows (n,), 1 <= n <= `config.window_samples`, as one batch.

        May run in a thread while `encode_batch` is at work on the batch before.
        """
        mel, lengths = batch_features(windows, self.config, self.device)
        sizes = [-(-len(window) // self.config.samples_per_code) for window in windows]
        return PreparedBatch(mel, lengths, sizes)

    @torch.no_grad()
    def encode_batch(self, batch: PreparedBatch) -> list[np.ndarray]:
        """Codes (n,) int64 of each window, when they are there: the look-up waits for a GPU."""
        hidden = self.model.encoder.lower(batch.mel.to(self.dtype), batch.lengths).hidden
        starts = [row * hidden.shape[1] for row in range(len(batch.sizes))]
        places = [range(start, start + n) for start, n in zip(starts, batch.sizes, strict=True)]
        chosen = to_device(list(chain.from_iterable(places)), self.device)
        found = self.codes_of(hidden.flatten(0, 1)[chosen])
        return [codes.numpy() for codes in found.cpu().split(batch.sizes)]

    def codes_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """Codes (N,) of vectors (N, D) from below the quantizer."""
        return self.quantizer.codes_of(hidden)

    def stream(self) -> SpeechTokenStream:
        """A stream that takes audio in chunks of any size and gives codes as blocks complete.

        Raises:
            ConfigError: a tokenizer whose codes depend on all of the later audio.
        """
        return SpeechTokenStream(self)

    @torch.no_grad()
    def decode_text(
        self, codes: Sequence[np.ndarray], languages: Sequence[str | None] | None = None
    ) -> list[str]:
        """Transcribe codes (n,) by the upper encoder layers and the ASR decoder.

        Codes of more than 30 s are read window by window; no codes say nothing.

        Raises:
            ConfigError: an encoder-only tokenizer.
            VocabularyError: a code outside 0..num_codes-1.
        """
        if self.text is None:
            raise ConfigError("this speech tokenizer ends at its quantizer and cannot transcribe")
        size, windows = self.config.codes_per_window, []
        for index, array in enumerate(codes):
            array = np.asarray(array, dtype=np.int64)
            if array.size and not 0 <= array.min() <= array.max() < self.num_codes:
                raise VocabularyError(
                    f"codes {array.min()}..{array.max()} given to a speech tokenizer with codes "
                    f"0..{self.num_codes - 1}"
                )
            windows += [(index, array[s : s + size]) for s in range(0, len(array), size)]
        parts: list[list[tuple[int, str]]] = [[] for _ in codes]
        for batch in batches_by_length([len(w) for _, w in windows], _CODES_PER_BATCH):
            owners = [windows[n][0] for n in batch]
            spoken = [languages[owner] if languages else None for owner in owners]
            texts = self._decode_windows([windows[n][1] for n in batch], spoken)
            for n, owner, text in zip(batch, owners, texts, strict=True):
                parts[owner].append((n, text))
        return [" ".join(text for _, text in sorted(found)).strip() for found in parts]

    def _decode_windows(self, arrays: list[np.ndarray], languages: list[str | None]) -> list[str]:
        assert self.text is not None
        lengths = torch.tensor([len(array) for array in arrays], device=self.device)
        padded = torch.zeros(len(arrays), int(lengths.max()), dtype=torch.int64)
        for row, array in zip(padded, arrays, strict=True):
            row[: len(array)] = torch.from_numpy(array)
        valid = torch.arange(padded.shape[1], device=self.device) < lengths[:, None]
        vectors = self.quantizer.lookup(padded.to(self.device))
        encoded = self.model.encoder.upper(vectors.to(self.dtype), valid)
        return self.text.transcribe(self.model, encoded, valid, languages)


def code_points(folder: Path | None) -> CodePoints | None:
    """Where the codes of a speech tokenizer lie, in the space in which the nearest is looked for.

    None without a folder. Raises:
        CheckpointError: files missing or damaged, or tensors that do not fit the config.
        ConfigError: a config that makes no speech tokenizer, or one without quantization.
    """
    if folder is None:
        return None
    tokenizer = SpeechTokenizer.from_pretrained(folder)
    return CodePoints(tokenizer.quantizer.points(), tokenizer.fingerprint)


def _fingerprint(model: SpeechTokenizerModel) -> str:
    """Hash of the tensors and settings below the codes."""
    config = model.config
    settings = {name: getattr(config, name) for name in _CODE_FIELDS}
    if config.quantize_lookup != "exact":  # named only then: older fingerprints stay valid
        settings["quantize_lookup"] = config.quantize_lookup
    if config.quantizer != "vq":
        settings |= {"quantizer": config.quantizer, "fsq_levels": config.fsq_levels}
    parts: list[bytes | str] = [json.dumps(settings)]
    upper = [f"layers.{n}." for n in range(config.quantize_position, config.encoder_layers)]
    unused = (*upper, "layer_norm.", "embed_positions2.")
    unused += ("quantizer.ema_", "quantizer.project_out.")  # of training; from codes to vectors
    for name, value in sorted(model.encoder.state_dict().items()):
        if not name.startswith(unused):
            data = value.detach().cpu().contiguous().view(torch.uint8)
            parts += [name, data.numpy().tobytes()]
    return fingerprint_of(*parts)
