"""What the flow model is trained for: true spectrograms of given codes (paper section 3)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import ConfigError
from ..io.rejected import Rejected
from ..speech_tokenizer.read_ahead import ReadBatches
from ..speech_tokenizer.set_aside import SetAside
from ..training.task import Metrics
from .config import SpeechDecoderConfig
from .dataset import DecoderDataset, Utterance
from .flow import FlowInputs, FlowModel
from .mel import HOP_SAMPLES, MARGIN_SAMPLES, log_mel_within
from .samples import FlowSamples, SampleBoard


@dataclass(frozen=True, kw_only=True)
class FlowObjectiveConfig:
    """Losses and what is cut or left out of a sample."""

    crop_codes: int = 150
    """Longest stretch of a recording in a batch, in codes."""
    prefix_share: float = 0.0
    """Share of samples cut to their first n blocks, n = 1, 2, ...: teaches to start early. The
    paper does so in its second stage."""
    unconditional_share: float = 0.2
    """Share of samples whose codes are hidden from the flow, for classifier-free guidance."""
    nameless_share: float = 0.1
    """Share of samples whose speaker is not told, where voices have an embedding."""
    guess_loss_weight: float = 1.0
    """Weight of the squared error of the first guess."""

    def __post_init__(self) -> None:
        for name in ("prefix_share", "unconditional_share", "nameless_share"):
            if not 0 <= getattr(self, name) <= 1:
                flag = name.replace("_", "-")
                raise ConfigError(f"--{flag} is {getattr(self, name)}; expected 0 to 1")
        if self.crop_codes < 1 or self.guess_loss_weight < 0:
            raise ConfigError("--crop-codes must be 1 or more, --guess-loss-weight 0 or more")


class DecoderObjective[Batch](ReadBatches[Batch]):
    """What those of flow and vocoder share: held-out recordings, and where samples are shown."""

    reaches_all_parameters = False  # speakers nobody names; a discriminator before its start

    def __init__(
        self,
        train: DecoderDataset,
        valid: DecoderDataset | None,
        device: torch.device,
        set_aside: SetAside,
        board: SampleBoard | None,
    ):
        super().__init__(train, device, set_aside)
        self._valid, self._board = valid, board

    def after_step(self, model: nn.Module, iteration: int) -> Metrics:
        """Nothing to add."""
        return {}

    def close(self) -> None:
        """Stop reading."""
        super().close()
        for part in (self.train, self._valid, self._board):
            if part is not None:
                part.close()


class FlowObjective(DecoderObjective[FlowInputs]):
    """Flow matching and first guess."""

    _board: FlowSamples | None

    def __init__(
        self, model_config: SpeechDecoderConfig, config: FlowObjectiveConfig, *material: Any
    ):
        """`material` is that of `DecoderObjective`."""
        super().__init__(*material)
        self.model_config, self.config = model_config, config
        self._rows = {name: row for row, name in enumerate(model_config.speakers, start=1)}

    def read(
        self, indices: list[int], random: np.random.Generator
    ) -> tuple[FlowInputs, list[Rejected]]:
        """A padded batch of crops with noise, times and what is left out."""
        utterances, broken = self.train.get(indices)
        spans = [self._span(len(item.codes), random) for item in utterances]
        return self._inputs(utterances, spans, random), broken

    def loss(
        self, model: nn.Module, batch: FlowInputs, iteration: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Velocity error of the flow + weighted squared error of the guess."""
        losses = model(batch)
        total = losses["flow loss"] + self.config.guess_loss_weight * losses["guess loss"]
        return total, {name: value.detach() for name, value in losses.items()}

    def evaluate(self, model: FlowModel, iteration: int) -> Metrics:
        """Losses on the held-out recordings, always with the same noise; rank 0 adds samples."""
        if self._valid is None:
            return {}
        size, sums, count = self.data.micro_batch_size, {}, 0
        most = min(len(self._valid), self.data.valid_samples)
        for start in range(0, most, size):
            part, _ = self._valid.get(range(start, min(start + size, most)))
            spans = [(0, min(len(item.codes), self.config.crop_codes)) for item in part]
            random = np.random.default_rng((self.data.seed, start))
            found = model(self._inputs(part, spans, random).to(self.device))
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value.item() * len(part)
            count += len(part)
        if self._board is not None and self.rank == 0:
            self._board.write(model, self._valid, iteration)
        return {name: value / count for name, value in sums.items()}

    def _span(self, codes: int, random: np.random.Generator) -> tuple[int, int]:
        """First and last code + 1 of a crop: anywhere, or the first n blocks."""
        most, block = self.config.crop_codes, self.model_config.codes_in_block
        if random.random() < self.config.prefix_share:
            blocks = random.integers(1, -(-min(codes, most) // block) + 1)
            return 0, min(int(blocks) * block, codes)
        start = int(random.integers(0, max(codes - most, 0) + 1))
        return start, min(start + most, codes)

    def _inputs(
        self, utterances: list[Utterance], spans: list[tuple[int, int]], random: np.random.Generator
    ) -> FlowInputs:
        config, count = self.model_config, len(utterances)
        sizes = np.array([stop - start for start, stop in spans])
        frames = np.array([config.frames_until(int(size)) for size in sizes])
        codes = np.zeros((count, sizes.max()), np.int64)
        padded = 2 * MARGIN_SAMPLES + HOP_SAMPLES * int(frames.max())
        audio = np.zeros((count, padded), np.float32)
        for n, (item, (start, stop)) in enumerate(zip(utterances, spans, strict=True)):
            codes[n, : stop - start] = item.codes[start:stop]
            first = start * config.samples_per_code - MARGIN_SAMPLES
            length = 2 * MARGIN_SAMPLES + HOP_SAMPLES * int(frames[n])
            audio[n, :length] = item.excerpt(first, first + length)
        mel = log_mel_within(torch.from_numpy(audio)).transpose(1, 2)
        speakers = [self._rows.get(item.row.speaker, 0) for item in utterances]
        named = random.random(count) >= self.config.nameless_share
        times = random.random(count, dtype=np.float32)
        if config.sampling.time_schedule == "cosine":
            times = 1 - np.cos(times * np.float32(np.pi / 2))
        return FlowInputs(
            codes=torch.from_numpy(codes),
            code_lengths=torch.from_numpy(sizes),
            mel=(mel - config.mel_mean) / config.mel_std,
            frame_lengths=torch.from_numpy(frames),
            speakers=torch.tensor(speakers) * torch.from_numpy(named),
            noise=torch.from_numpy(random.standard_normal(mel.shape, dtype=np.float32)),
            times=torch.from_numpy(times),
            kept=torch.from_numpy(random.random(count) >= self.config.unconditional_share),
        )
