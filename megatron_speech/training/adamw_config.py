"""Optimizer and learning rate of the ddp backend."""

from dataclasses import dataclass
from typing import Literal

import torch

from ..errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with warm-up and decay, in Megatron's names."""

    lr: float = 1e-3
    """Peak learning rate."""
    min_lr: float = 0.0
    """Learning rate at the end."""
    lr_warmup_iters: int = 0
    """Steps of linear warm-up from 0."""
    lr_decay_style: Literal["constant", "linear", "cosine"] = "linear"
    """Shape of the decay from `lr` to `min_lr`."""
    lr_decay_start: float = 0.0
    """Share of the steps after which the decay begins."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.95
    """Decay of the second moment."""
    adam_eps: float = 1e-8
    """Added to the denominator of the update."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on matrices only."""
    clip_grad: float = 1.0
    """Largest gradient norm; 0 disables clipping."""
    bf16: bool = False
    """Compute in bfloat16 (autocast); parameters and optimizer stay fp32."""

    def __post_init__(self) -> None:
        if not 0 <= self.lr_decay_start <= 1:
            raise ConfigError(f"--lr-decay-start is {self.lr_decay_start}; give a share in 0..1")

    def lr_at(self, iteration: int, train_iters: int) -> float:
        """Learning rate of step `iteration` (0-based)."""
        if iteration < self.lr_warmup_iters:
            return self.lr * (iteration + 1) / self.lr_warmup_iters
        start = max(self.lr_warmup_iters, round(self.lr_decay_start * train_iters))
        if self.lr_decay_style == "constant" or iteration < start:
            return self.lr
        share = min((iteration - start) / max(train_iters - start, 1), 1.0)
        if self.lr_decay_style == "cosine":
            share = (1 - torch.cos(torch.tensor(share * torch.pi)).item()) / 2
        return self.lr + share * (self.min_lr - self.lr)
