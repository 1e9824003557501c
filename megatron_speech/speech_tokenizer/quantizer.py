"""What quantizes: the interface, and vector quantization by an EMA codebook (paper section 2.2).

Statistics are summed over all ranks and random choices are made from a generator seeded by the
step over the vectors of all ranks in an order that ranks do not change, so that every rank holds
the same codebook and the number of ranks does not matter.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..errors import ConfigError
from ..jobs.progress import track
from ..kernels.codebook_update import codebook_sums
from ..kernels.vq_lookup import nearest_codes
from ..training.task import Metrics
from .config import SpeechTokenizerConfig
from .lookup import codes_by_rule

_LAPLACE_EPSILON = 1e-5
_ALIVE = 0.01


@dataclass
class Quantized:
    """What the quantizer gives for B clips of T vectors, width D."""

    vectors: torch.Tensor
    """Vectors of the codes (B, T, D), fp32; their gradient goes straight to the input."""
    codes: torch.Tensor
    """Codes (B, T), int64; 0 on padding."""
    commitment_loss: torch.Tensor
    """Mean squared distance of valid vectors to their code, the code held fixed; scalar."""


class Quantizer(nn.Module, ABC):
    """Vectors to codes and back. In training mode each forward adds to the statistics of the step.

    A subclass gives `forward(hidden, valid) -> Quantized` besides what is named here.
    """

    num_codes: int
    """Codes K; they are 0..K-1."""
    _pending: list[Any]
    """Statistics of each forward since the last update."""

    @abstractmethod
    def codes_of(self, vectors: torch.Tensor) -> torch.Tensor:
        """Codes of vectors: (N, D) -> (N,) int64."""

    @abstractmethod
    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Vectors of codes: (...) int64 -> (..., D) fp32."""

    @abstractmethod
    def points(self) -> torch.Tensor:
        """Where the codes lie in the space in which the nearest one is looked for: (K, d) fp32."""

    @abstractmethod
    def update(self, step: int) -> Metrics:
        """Apply the statistics gathered since the last call; `step` is 1 for the first update.

        Every rank must call it.
        """

    def drop(self) -> None:
        """Forget the statistics gathered since the last update: of a step that is not done."""
        self._pending = []

    @abstractmethod
    def initialise(
        self,
        vectors: torch.Tensor,
        seed: int = 0,
        rounds: int = 10,
        positions: torch.Tensor | None = None,
    ) -> None:
        """Start from real vectors (N on this rank, D); every rank must call it.

        `positions` (N,) numbers them over all ranks; None is in rank order.
        """


class VectorQuantizer(Quantizer):
    """One codebook; codes follow the vectors by moving averages, not by gradient."""

    ema_count: torch.Tensor
    ema_weight: torch.Tensor

    def __init__(self, config: SpeechTokenizerConfig):
        super().__init__()
        assert config.quantize_vocab_size is not None
        self.config = config
        self.num_codes = config.quantize_vocab_size
        self.codebook = nn.Embedding(self.num_codes, config.code_width)
        self.codebook.weight.requires_grad_(False)
        self.register_buffer("ema_count", torch.ones(self.num_codes))
        self.register_buffer("ema_weight", self.codebook.weight.detach().clone())
        self._pending = []

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor) -> Quantized:
        """Quantize (B, T, D) vectors; `valid` (B, T) is False on padding."""
        # asked once: how many positions are valid is a number the device has to be waited for
        places = valid.flatten().nonzero().flatten()
        flat = self.inward(hidden.flatten(0, 1)[places])  # as the encoder made it; codes are fp32
        indices = nearest_codes(flat.detach(), self.codebook.weight)
        if self.training:
            self._pending.append((flat.detach(), indices))
        hidden = hidden.float()
        codes = torch.zeros(valid.shape, dtype=torch.int64, device=hidden.device)
        codes.view(-1)[places] = indices
        vectors = self.lookup(codes)
        loss = (flat.float() - self.codebook.weight[indices]).square().mean()
        # Straight through: the value is the code's, the derivative is that of the input.
        return Quantized(hidden + (vectors - hidden).detach(), codes, loss)

    def codes_of(self, vectors: torch.Tensor) -> torch.Tensor:
        """Codes of vectors (N, D) by the rule that the config names."""
        rule = self.config.quantize_lookup
        return codes_by_rule(self.inward(vectors), self.codebook.weight, rule)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Vectors of codes: (...) int64 -> (..., D) fp32."""
        return self.outward(self.codebook.weight[codes].float())

    def points(self) -> torch.Tensor:
        """Rows of the codebook: (K, d) fp32."""
        return self.codebook.weight.float()

    def inward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors (..., D) -> what is compared with codes, (..., d): here they themselves."""
        return vectors

    def outward(self, codes: torch.Tensor) -> torch.Tensor:
        """Rows of the codebook (..., d) -> the vectors they stand for, (..., D)."""
        return codes

    @torch.no_grad()
    def update(self, step: int) -> Metrics:
        """Apply the statistics gathered since the last call; restart dead codes when due.

        `step` is 1 for the first update. Every rank must call it. Vectors that are not finite do
        not count: a codebook would never recover from them.
        """
        vectors, indices = self._take_pending()
        finite = vectors.isfinite().all(dim=1)
        counts, sums = codebook_sums(vectors, indices, self.num_codes, finite)
        counts, sums = all_reduce_sum(counts), all_reduce_sum(sums)
        decay = self.config.quantize_ema_decay
        total = self.ema_count.mul_(decay).add_(counts, alpha=1 - decay).sum()
        smoothed = (self.ema_count + _LAPLACE_EPSILON) / (total + self.num_codes * _LAPLACE_EPSILON)
        self.ema_count.copy_(smoothed * total)
        self.ema_weight.mul_(decay).add_(sums, alpha=1 - decay)
        self.codebook.weight.copy_(self.ema_weight / self.ema_count[:, None])
        metrics = usage_metrics(self.ema_count)
        interval = self.config.quantize_restart_interval
        if interval is not None and step % interval == 0:
            metrics["codes restarted"] = float(self._restart_dead_codes(vectors[finite], step))
        return metrics

    @torch.no_grad()
    def initialise(
        self,
        vectors: torch.Tensor,
        seed: int = 0,
        rounds: int = 10,
        positions: torch.Tensor | None = None,
    ) -> None:
        """Set the codebook by k-means over real vectors (N on this rank, D).

        Lloyd's rounds from randomly chosen vectors; an emptied cluster starts again at another
        vector. Counts start at the clusters' shares of one vector per code.

        Raises:
            ConfigError: fewer vectors on all ranks than codes.
        """
        vectors = self.inward(vectors)
        own = torch.tensor(float(len(vectors)), dtype=torch.float64, device=vectors.device)
        total = int(all_reduce_sum(own).item())
        if total < self.num_codes:
            raise ConfigError(
                f"k-means over {total} vectors cannot fill {self.num_codes} codes; lower "
                "--quantize-vocab-size or raise --kmeans-vectors, if there is more speech"
            )
        centres = choose_vectors(vectors, self.num_codes, seed, positions)
        counts = torch.ones(self.num_codes, device=vectors.device)
        shown = not dist.is_initialized() or dist.get_rank() == 0
        for round_index in track(range(rounds), "k-means", unit="rounds", shown=shown):
            indices = nearest_codes(vectors, centres)
            counts, sums = codebook_sums(vectors, indices, self.num_codes)
            counts, sums = all_reduce_sum(counts), all_reduce_sum(sums)
            centres = sums / counts.clamp(min=1)[:, None]
            empty = (counts == 0).nonzero().flatten()
            if len(empty):
                again = seed + 1 + round_index
                centres[empty] = choose_vectors(vectors, len(empty), again, positions)
        self.codebook.weight.copy_(centres)
        self.ema_count.copy_(counts.clamp(min=1) * self.num_codes / total)
        self.ema_weight.copy_(centres * self.ema_count[:, None])

    def _restart_dead_codes(self, vectors: torch.Tensor, step: int) -> int:
        """Replace codes that hardly occur by vectors of this step, as Jukebox does."""
        dead = (self.ema_count < self.config.restart_threshold).nonzero().flatten()
        chosen = choose_vectors(vectors, len(dead), step)
        dead = dead[: len(chosen)]
        self.codebook.weight[dead] = chosen
        self.ema_weight[dead] = chosen
        self.ema_count[dead] = 1.0
        return len(dead)

    def _take_pending(self) -> tuple[torch.Tensor, torch.Tensor]:
        pending, self._pending = self._pending, []
        if not pending:
            device = self.ema_count.device
            empty = torch.zeros(0, dtype=torch.int64, device=device)
            return torch.zeros(0, self.ema_weight.shape[1], device=device), empty
        return torch.cat([v for v, _ in pending]), torch.cat([i for _, i in pending])


def choose_vectors(
    vectors: torch.Tensor, wanted: int, seed: int, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """Choose up to `wanted` rows at random, without repeats, from the rows of all ranks.

    `positions` (N,) numbers the rows over all ranks; None is in rank order. The result (n, D) is
    the same on every rank and does not depend on how rows are split.
    """
    in_order, total = positions_over_ranks(len(vectors), vectors.device)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(total, generator=generator)[:wanted].to(vectors.device)
    rows = torch.full((total,), -1, device=vectors.device)
    rows[in_order if positions is None else positions] = torch.arange(
        len(vectors), device=vectors.device
    )
    local = rows[chosen]
    mine = local >= 0
    result = torch.zeros(len(chosen), vectors.shape[1], device=vectors.device)
    result[mine] = vectors[local[mine]].float()
    return all_reduce_sum(result)


def positions_over_ranks(count: int, device: torch.device) -> tuple[torch.Tensor, int]:
    """Numbers of this rank's `count` rows among those of all ranks, in rank order; and the sum."""
    sizes, rank = [count], 0
    if _world_size() > 1:
        own = torch.tensor([count], device=device)
        gathered = [torch.zeros_like(own) for _ in range(_world_size())]
        dist.all_gather(gathered, own)
        sizes, rank = [int(size) for size in gathered], dist.get_rank()
    start = sum(sizes[:rank])
    return torch.arange(start, start + count, device=device), sum(sizes)


def usage_metrics(ema_count: torch.Tensor) -> Metrics:
    """From moving counts (K,): perplexity, and the share of codes above 1% of the mean count."""
    return {
        "codebook perplexity": perplexity(ema_count),
        "codebook usage": (ema_count > _ALIVE * ema_count.mean()).float().mean().item(),
    }


def perplexity(counts: torch.Tensor) -> float:
    """exp of the entropy of the distribution that `counts` (K,) are proportional to."""
    share = counts.double() / counts.sum().clamp(min=1e-12)
    return torch.exp(-(share * share.clamp(min=1e-12).log()).sum()).item()


def moments(vectors: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Count, mean (D,) and covariance (D, D) of the vectors (N on this rank, D) of all ranks."""
    own = vectors.double()
    total = all_reduce_sum(torch.tensor(float(len(own)), device=own.device).double()).item()
    mean = all_reduce_sum(own.sum(dim=0)) / total
    return total, mean, all_reduce_sum((own - mean).T @ (own - mean)) / total


def fill(layer: nn.Linear, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Set a layer, alike on all ranks whatever their linear algebra rounds."""
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    if _world_size() > 1:
        dist.broadcast(layer.weight, 0)
        dist.broadcast(layer.bias, 0)


def all_reduce_sum(value: torch.Tensor) -> torch.Tensor:
    """Sum over ranks, in place where there are several."""
    if _world_size() > 1:
        dist.all_reduce(value)
    return value


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
