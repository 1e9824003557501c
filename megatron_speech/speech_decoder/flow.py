"""From codes to a log-mel spectrogram: encoder, length regulator, conditional flow matching.

Codes are embedded and encoded block by block; each mel frame takes the encoding of the code in
which its middle lies (nearest interpolation) and, after layers at its own rate, becomes a first
guess of the spectrogram. A flow then carries noise to the spectrogram (Lipman et al. 2023, the
optimal-transport path x_t = (1 - t) noise + t mel), conditioned on the guess; what it was
conditioned on is now and then left out in training, for classifier-free guidance.

Differences from the released decoder (paper section 3.1), which gives the generated past to the
flow as a clean prompt and runs it again with every block: here the flow's network is block-causal
itself and keeps its past of each Euler step. It predicts where the path ends, from which the
velocity follows, and its first guess has a loss of its own; small models learn sooner that way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from .config import FlowSamplingConfig, SpeechDecoderConfig
from .layers import BlockCausalStack, Shape, StackState
from .mel import HOP_SAMPLES

_TIME_WIDTH = 128
_LEAST_TIME_LEFT = 0.2
"""Velocity errors are divided by the time left; below this they would be all that counts."""


@dataclass
class FlowState:
    """The past of an utterance: of the encoder, of the regulator, and of each Euler step."""

    codes: int = 0
    frames: int = 0
    encoder: StackState = field(default_factory=StackState)
    regulator: StackState = field(default_factory=StackState)
    steps: list[StackState] = field(default_factory=list)


def frame_places(
    first: int, last: int, config: SpeechDecoderConfig, device: torch.device
) -> tuple[Int64[Tensor, " f"], Float[Tensor, " f"]]:
    """The codes in which the middles of mel frames first .. last - 1 lie, and how far in, 0..1."""
    middle = torch.arange(first, last, device=device) * HOP_SAMPLES + HOP_SAMPLES // 2
    size = config.samples_per_code
    return middle // size, (middle % size).float() / size


class FlowModel(nn.Module):
    """Codes (B, N) -> normalised log-mels (B, frames, mels)."""

    def __init__(self, config: SpeechDecoderConfig):
        super().__init__()
        self.config = replace(config, block_codes=config.codes_in_block)
        width, mels = config.encoder_dim, config.num_mels
        common = (config.conv_kernel_size, config.lookback_blocks, config.dropout)
        sizes = (config.encoder_heads, config.encoder_ffn_dim, *common)
        self.embedding = nn.Embedding(config.num_codes, width)
        self.encoder = BlockCausalStack(Shape(width, config.encoder_layers, *sizes))
        self.speaker = nn.Embedding(len(config.speakers) + 1, width) if config.speakers else None
        self.spread = nn.Linear(width, config.anchors * width)
        self.regulator = BlockCausalStack(Shape(width, config.regulator_layers, *sizes))
        self.guess = nn.Linear(width, mels)
        self.time = nn.Sequential(
            nn.Linear(_TIME_WIDTH, config.flow_dim),
            nn.SiLU(),
            nn.Linear(config.flow_dim, _TIME_WIDTH),
            nn.SiLU(),
        )
        self.flow_in = nn.Linear(2 * mels + width, config.flow_dim)
        sizes = (config.flow_heads, config.flow_ffn_dim, *common, _TIME_WIDTH)
        self.flow = BlockCausalStack(Shape(config.flow_dim, config.flow_layers, *sizes))
        self.flow_out = nn.Linear(config.flow_dim, mels)
        nn.init.normal_(self.embedding.weight)
        nn.init.zeros_(self.flow_out.weight)
        nn.init.zeros_(self.flow_out.bias)

    def condition(
        self,
        codes: Int64[Tensor, "b n"],
        frames: int,
        speakers: Int64[Tensor, " b"] | None = None,
        lengths: tuple[Tensor, Tensor] | None = None,
        state: FlowState | None = None,
    ) -> tuple[Float[Tensor, "b f w"], Float[Tensor, "b f mels"]]:
        """Encoding of mel frames `state.frames` .. `frames` - 1 and the first guess of them.

        `lengths` are the valid codes and frames (B,) of a padded batch.
        """
        config, device = self.config, codes.device
        first_code, first_frame = (state.codes, state.frames) if state is not None else (0, 0)
        positions = torch.arange(first_code, first_code + codes.shape[1], device=device)
        valid = _valid(lengths and lengths[0], codes.shape[1])
        encoded = self.encoder(
            self.embedding(codes),
            positions,
            positions // config.codes_in_block,
            valid,
            state=state and state.encoder,
        )
        places, phase = frame_places(first_frame, frames, config, device)
        hidden = self._lengthen(encoded, places - first_code, phase)
        if self.speaker is not None:
            rows = speakers if speakers is not None else codes.new_zeros(len(codes))
            hidden = hidden + self.speaker(rows)[:, None]
        hidden = self.regulator(
            hidden,
            torch.arange(first_frame, frames, device=device),
            places // config.codes_in_block,
            _valid(lengths and lengths[1], hidden.shape[1]),
            state=state and state.regulator,
        )
        return hidden, self.guess(hidden)

    def _lengthen(self, encoded: Tensor, codes: Tensor, phase: Tensor) -> Tensor:
        """(B, N, W) at the rate of codes -> (B, F, W): each frame takes from its own code.

        A code has an encoding for each of several anchors from its beginning to its end; a frame
        mixes the two that it lies between.
        """
        count = self.config.anchors
        anchors = self.spread(encoded).view(*encoded.shape[:2], count, -1)
        place = phase * (count - 1)
        below = place.long().clamp(max=max(count - 2, 0))
        above = (below + 1).clamp(max=count - 1)
        share = (place - below)[:, None].to(anchors.dtype)
        return torch.lerp(anchors[:, codes, below], anchors[:, codes, above], share)

    def destination(
        self,
        x: Float[Tensor, "b f mels"],
        t: Float[Tensor, " b"],
        hidden: Float[Tensor, "b f w"],
        guess: Float[Tensor, "b f mels"],
        first_frame: int = 0,
        valid: Tensor | None = None,
        state: StackState | None = None,
    ) -> Float[Tensor, "b f mels"]:
        """Where the path through `x` at time `t` ends; zeros for what is left out."""
        frames = torch.arange(first_frame, first_frame + x.shape[1], device=x.device)
        places, _ = frame_places(first_frame, first_frame + x.shape[1], self.config, x.device)
        inputs = self.flow_in(torch.cat([x, guess, hidden], dim=-1))
        blocks = places // self.config.codes_in_block
        found = self.flow(inputs, frames, blocks, valid, self.time(_waves(t)), state)
        return guess + self.flow_out(found)

    def forward(self, batch: "FlowInputs") -> dict[str, Tensor]:
        """Losses of a padded batch: `flow loss` and `guess loss`, means over valid values."""
        hidden, guess = self.condition(
            batch.codes,
            batch.mel.shape[1],
            batch.speakers,
            (batch.code_lengths, batch.frame_lengths),
        )
        valid = _valid(batch.frame_lengths, batch.mel.shape[1])
        assert valid is not None
        kept = batch.kept[:, None, None].to(guess.dtype)
        x = torch.lerp(batch.noise, batch.mel, batch.times[:, None, None])
        # The guess has its own loss; the flow's would make it hide information for the flow.
        ends = self.destination(x, batch.times, hidden * kept, guess.detach() * kept, valid=valid)
        left = (1 - batch.times).clamp(min=_LEAST_TIME_LEFT)[:, None, None]
        weight = valid[:, :, None] / (valid.sum() * self.config.num_mels)
        return {
            "flow loss": (((ends - batch.mel) / left).square() * weight).sum(),
            "guess loss": ((guess - batch.mel).square() * weight).sum(),
        }

    @torch.no_grad()
    def start_from_codebook(self, vectors: Float[Tensor, "k d"]) -> None:
        """Make the embeddings of codes whose vectors are alike alike.

        The speech tokenizer's codebook, standardised, turned at random where the widths differ.
        """
        centred = (vectors.float() - vectors.float().mean(dim=0)) / vectors.float().std()
        width = self.embedding.weight.shape[1]
        if centred.shape[1] != width:
            centred = centred @ torch.randn(centred.shape[1], width) / centred.shape[1] ** 0.5
        self.embedding.weight.copy_(centred)

    @torch.no_grad()
    def add_speakers(self, names: Sequence[str]) -> None:
        """Rows for voices that have none yet; each starts as nobody's."""
        if names:
            nobody = torch.zeros(1, self.config.encoder_dim)
            rows = nobody if self.speaker is None else self.speaker.weight
            rows = torch.cat([rows, rows[:1].expand(len(names), -1)])
            self.speaker = nn.Embedding.from_pretrained(rows, freeze=False)
            self.config = replace(self.config, speakers=(*self.config.speakers, *names))

    @torch.no_grad()
    def sample(
        self,
        codes: Int64[Tensor, "1 n"],
        state: FlowState,
        seed: int,
        speaker: int,
        sampling: FlowSamplingConfig,
    ) -> Float[Tensor, "frames mels"]:
        """Log-mels of the next codes of an utterance: whole blocks, or its last.

        Which codes come together changes nothing but the rounding.
        """
        first, last = state.frames, self.config.frames_until(state.codes + codes.shape[1])
        rows = torch.tensor([speaker], device=codes.device)
        hidden, guess = self.condition(codes, last, rows, state=state)
        guided = sampling.guidance > 0
        if guided:
            hidden, guess = (torch.cat([v, torch.zeros_like(v)]) for v in (hidden, guess))
        noise = block_noise(first, last, self.config, seed).to(codes.device)
        x = sampling.temperature * noise[None]
        times = step_times(sampling)
        state.steps = state.steps or [StackState() for _ in times[1:]]
        for own, now, then in zip(state.steps, times[:-1], times[1:], strict=True):
            t = torch.full((len(hidden),), now, device=codes.device)
            ends = self.destination(
                x.expand(len(hidden), -1, -1), t, hidden, guess, first, state=own
            )
            end = ends[:1]
            if guided:
                end = (1 + sampling.guidance) * end - sampling.guidance * ends[1:]
            x = x + (then - now) / (1 - now) * (end - x)
        state.codes, state.frames = state.codes + codes.shape[1], last
        return x[0] * self.config.mel_std + self.config.mel_mean


class OnDevice:
    """Tensors that are moved together."""

    def to(self, device: torch.device) -> Self:
        return type(self)(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class FlowInputs(OnDevice):
    """A padded batch of B recordings."""

    codes: Tensor
    """(B, N)"""
    code_lengths: Tensor
    """Valid codes (B,)."""
    mel: Tensor
    """Normalised log-mels (B, F, mels)."""
    frame_lengths: Tensor
    """Valid frames (B,)."""
    speakers: Tensor
    """Rows of the speaker table (B,); 0 is nobody."""
    noise: Tensor
    """Starts of the paths (B, F, mels)."""
    times: Tensor
    """Where on its path each is, 0..1 (B,)."""
    kept: Tensor
    """False where the condition is left out (B,)."""


def step_times(sampling: FlowSamplingConfig) -> list[float]:
    """Times 0 .. 1 between which the Euler steps go."""
    even = np.linspace(0, 1, sampling.euler_steps + 1)
    return (1 - np.cos(even * np.pi / 2) if sampling.time_schedule == "cosine" else even).tolist()


def block_noise(first: int, last: int, config: SpeechDecoderConfig, seed: int) -> Tensor:
    """Noise (frames, mels) of frames first .. last - 1, which begin a block.

    Counted by block from the seed (Philox): whatever is decoded together, a frame gets its own.
    """
    size, parts, frame = config.codes_in_block, [], first
    while frame < last:
        middle = frame * HOP_SAMPLES + HOP_SAMPLES // 2
        block = middle // config.samples_per_code // size
        end = config.frames_until((block + 1) * size)
        start = config.frames_until(block * size)
        random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, block]))
        values = random.standard_normal((end - start, config.num_mels), dtype=np.float32)
        parts.append(values[frame - start : last - start])
        frame = min(end, last)
    return torch.from_numpy(np.concatenate(parts))


def _valid(lengths: Tensor | None, size: int) -> Tensor | None:
    if lengths is None:
        return None
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def _waves(t: Tensor) -> Tensor:
    """Sine features (B, width) of times (B,)."""
    half = _TIME_WIDTH // 2
    rates = torch.exp(torch.arange(half, device=t.device) * -(np.log(10_000.0) / (half - 1)))
    angles = 1000 * t[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
