"""Block-causal layers whose past can be kept, so that a block costs the same wherever it is.

A position sees its own block whole, the `lookback` blocks before it, and nothing later. The same
code runs a whole utterance at once and one block at a time: what came before is then in a
`StackState`, and the results are equal but for rounding.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """Sizes of a stack."""

    dim: int
    layers: int
    heads: int
    ffn_dim: int
    conv_kernel_size: int
    lookback_blocks: int
    dropout: float = 0.0
    time_dim: int = 0
    """Width of a condition that shifts and scales every layer (0: none)."""


@dataclass
class LayerState:
    """What a layer keeps: inputs of the convolution, keys and values of the last blocks."""

    conv: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None


@dataclass
class StackState:
    """The past of a stack. `blocks` (n,) are the blocks of the kept keys; a stack fills it."""

    layers: list[LayerState] = field(default_factory=list)
    blocks: Tensor | None = None


@dataclass(frozen=True)
class Surroundings:
    """What the layers of a stack share."""

    turn: Tensor
    """Rotary cosines and sines (2, T, width / 2)."""
    mask: Tensor
    """Which keys a position sees (B or 1, 1, T, T with the past)."""
    blocks: Tensor
    """Block of each position (T,)."""
    valid: Tensor | None
    """What is no padding (B, T)."""


def rotations(positions: Int64[Tensor, " t"], width: int) -> Float[Tensor, "2 t half"]:
    """Cosines and sines of rotary positions; angles in double, so that hours are exact enough."""
    powers = torch.arange(0, width, 2, device=positions.device).double() / width
    angles = positions[:, None].double() * (10_000.0**-powers)[None]
    return torch.stack([angles.cos(), angles.sin()]).float()


def _rotate(values: Tensor, turn: Tensor) -> Tensor:
    """(B, heads, T, width) turned by (2, T, width / 2)."""
    cos, sin = turn.to(values.dtype)
    first, second = values.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class BlockConv(nn.Module):
    """Depthwise convolution over time: all of the past, and what follows in the own block."""

    def __init__(self, dim: int, kernel_size: int):
        super().__init__()
        past = kernel_size // 2 + 1  # its own position included
        self.weight = nn.Parameter(torch.randn(dim, 1, 1, past) / kernel_size**0.5)
        self.ahead = nn.Parameter(torch.randn(kernel_size - past, dim) / kernel_size**0.5)
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(
        self, x: Float[Tensor, "b t d"], around: Surroundings, state: LayerState | None
    ) -> Float[Tensor, "b t d"]:
        past = self.weight.shape[-1] - 1
        if state is None or state.conv is None:
            known = F.pad(x, (0, 0, past, 0))
        else:
            known = torch.cat([state.conv, x], dim=1)
        if state is not None:
            state.conv = known[:, known.shape[1] - past :]
        # (B, C, 1, T) with C innermost in memory: the layout in which CPUs are fast at this.
        image = known.transpose(1, 2)[:, :, None]
        found = F.conv2d(image, self.weight, self.bias, groups=x.shape[-1])
        found = found[:, :, 0].transpose(1, 2)
        blocks, length = around.blocks, x.shape[1]
        if around.valid is not None:
            x = x * around.valid[:, :, None]
        for number, weight in enumerate(self.ahead, start=1):
            own = (blocks[number:] == blocks[:-number])[:, None]
            found = found + F.pad(x[:, number:] * (own * weight), (0, 0, 0, min(number, length)))
        return found


class Layer(nn.Module):
    """Convolution, attention, feed-forward; each added to what comes in, after a norm."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.dropout
        affine = not shape.time_dim
        self.norms = nn.ModuleList(
            nn.LayerNorm(shape.dim, elementwise_affine=affine) for _ in range(3)
        )
        self.conv = BlockConv(shape.dim, shape.conv_kernel_size)
        self.qkv = nn.Linear(shape.dim, 3 * shape.dim)
        self.out = nn.Linear(shape.dim, shape.dim)
        self.up = nn.Linear(shape.dim, shape.ffn_dim)
        self.down = nn.Linear(shape.ffn_dim, shape.dim)
        self.time = nn.Linear(shape.time_dim, 6 * shape.dim) if shape.time_dim else None
        if self.time is not None:
            nn.init.zeros_(self.time.weight)
            nn.init.zeros_(self.time.bias)

    def forward(
        self, x: Tensor, around: Surroundings, time: Tensor | None, state: LayerState | None
    ) -> Tensor:
        """x (B, T, D), time (B, time_dim)."""
        shifts = scales = [None] * 3
        if self.time is not None and time is not None:
            parts = self.time(time)[:, None].chunk(6, dim=-1)
            shifts, scales = parts[:3], parts[3:]
        x = x + F.gelu(self.conv(self._norm(0, x, shifts[0], scales[0]), around, state))
        x = x + self._drop(self._attend(self._norm(1, x, shifts[1], scales[1]), around, state))
        hidden = self._drop(F.gelu(self.up(self._norm(2, x, shifts[2], scales[2]))))
        return x + self.down(hidden)

    def _norm(self, number: int, x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
        normal = self.norms[number](x)
        return normal if shift is None or scale is None else normal * (1 + scale) + shift

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def _attend(self, x: Tensor, around: Surroundings, state: LayerState | None) -> Tensor:
        batch, length, dim = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        query, key = _rotate(query, around.turn), _rotate(key, around.turn)
        if state is not None:
            if state.keys is not None and state.values is not None:
                key = torch.cat([state.keys, key], dim=2)
                value = torch.cat([state.values, value], dim=2)
            state.keys, state.values = key, value
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=around.mask)
        return self.out(found.transpose(1, 2).reshape(batch, length, dim))


class BlockCausalStack(nn.Module):
    """Layers that share blocks and positions, and a norm behind them."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.dim)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        positions: Int64[Tensor, " t"],
        blocks: Int64[Tensor, " t"],
        valid: Bool[Tensor, "b t"] | None = None,
        time: Float[Tensor, "b c"] | None = None,
        state: StackState | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Run positions of whole blocks; with `state` they follow on what it holds.

        `valid` marks what is no padding (only without a state).
        """
        if state is not None and not state.layers:
            state.layers = [LayerState() for _ in self.layers]
        known = blocks
        if state is not None and state.blocks is not None:
            known = torch.cat([state.blocks, blocks])
        turn = rotations(positions, self.shape.dim // self.shape.heads)
        around = Surroundings(turn, self._mask(blocks, known, valid), blocks, valid)
        for number, layer in enumerate(self.layers):
            own = state.layers[number] if state is not None else None
            x = layer(x, around, time, own)
        if state is not None:
            self._forget(state, known)
        return self.norm(x)

    def _mask(self, blocks: Tensor, known: Tensor, valid: Tensor | None) -> Tensor:
        distance = blocks[:, None] - known[None]
        mask = (distance >= 0) & (distance <= self.shape.lookback_blocks)
        mask = mask[None, None]
        if valid is None:
            return mask
        own = torch.eye(len(blocks), dtype=torch.bool, device=blocks.device)
        return mask & valid[:, None, None] | own  # padding sees itself: no row without a key

    def _forget(self, state: StackState, known: Tensor) -> None:
        """Keep what the next block may see."""
        keep = int((known > known[-1] - self.shape.lookback_blocks).sum())
        start = len(known) - keep
        state.blocks = known[start:]
        for layer in state.layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = layer.keys[:, :, start:], layer.values[:, :, start:]
