"""Inputs on which look-ups go wrong, and what exact arithmetic says about them."""

from collections.abc import Callable, Iterator
from fractions import Fraction

import torch
from torch import Tensor

Lookup = Callable[[Tensor, Tensor], Tensor]
DTYPES = {
    "fp32": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "fp16": (torch.float16, torch.float16),
    "bf16 against fp32": (torch.bfloat16, torch.float32),
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact_nearest(x: Tensor, codebook: Tensor) -> Tensor:
    """(N, D), (K, D) -> (N,) by rational arithmetic; the lowest of equal ones."""
    codes = [[Fraction(value) for value in row] for row in codebook.double().tolist()]
    chosen = []
    for row in x.double().tolist():
        row = [Fraction(value) for value in row]
        distances = [sum((a - b) ** 2 for a, b in zip(row, code, strict=True)) for code in codes]
        chosen.append(distances.index(min(distances)))
    return torch.tensor(chosen, dtype=torch.int64)


def wrong_and_tied(indices: Tensor, x: Tensor, codebook: Tensor) -> tuple[int, int]:
    """How many indices differ from fp64's: by more than fp32 rounding, and by less (ties)."""
    wrong = tied = 0
    codes = codebook.double()
    half = codes.square().sum(dim=1) / 2
    for part, found in zip(x.split(4096), indices.split(4096), strict=True):
        scores = part.double() @ codes.T - half
        best = scores.argmax(dim=1)
        rows = (found != best).nonzero().flatten()
        gaps = scores[rows, best[rows]] - scores[rows, found[rows]]
        distances = (part[rows].double() - codes[found[rows]]).square().sum(dim=1)
        small = int((2 * gaps <= distances * 2.0**-24).sum())
        wrong, tied = wrong + len(rows) - small, tied + small
    return wrong, tied


def near_ties(dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Vectors half-way between pairs of codes that differ in their last bits."""
    base = (randn(1, 24) * scale).to(dtype)
    step = torch.finfo(dtype).eps
    codes = [base]
    for index in range(15):
        noise = torch.randint(-2, 3, base.shape, generator=torch.Generator().manual_seed(index))
        codes.append((base.double() * (1 + noise * step)).to(dtype))
    codebook = torch.cat(codes)
    mixed = (codebook[:-1].double() + codebook[1:].double()) / 2
    return torch.cat([mixed.to(dtype), codebook, (codebook * 1.01).to(dtype)]), codebook


def exact_ties() -> tuple[Tensor, Tensor]:
    """Vectors at exactly the same distance from several codes of the same norm."""
    signs = torch.tensor([[1.0, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]])
    codebook = torch.cat([signs, signs.flip(0), torch.zeros(1, 4), torch.ones(1, 4) * 2])
    return torch.cat([torch.zeros(3, 4), torch.ones(3, 4), signs, signs * 0.5]), codebook


def adversarial() -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, vectors and codebook of each hard case; small enough for rational arithmetic."""
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        yield f"near-ties {name}", *near_ties(dtype)
    yield "near-ties, huge", *near_ties(torch.float32, 1e37)
    yield "near-ties, tiny", *near_ties(torch.float32, 1e-37)
    yield "near-ties, bf16 huge", *near_ties(torch.bfloat16, 1e37)
    x, codebook = near_ties(torch.bfloat16)
    yield "near-ties, bf16 against fp32", x, near_ties(torch.float32)[1]
    yield "exact ties", *exact_ties()
    x, codebook = randn(20, 9), randn(6, 9, seed=1)
    order = torch.tensor([3, 1, 3, 0, 1, 5, 5, 5, 2, 4, 0])
    yield "duplicates", x, codebook[order]
    yield "duplicates of both zeros", x[:4], torch.tensor([[0.0], [-0.0], [0.0]]).repeat(1, 9)
    yield "one code many times", x, codebook[:1].repeat(300, 1)
    yield "at the end of fp32", x.clamp(-1, 1) * 3.4e38, codebook.clamp(-1, 1) * 3.4e38
    yield "denormal", x * 1e-41, codebook * 1e-41
    yield "denormal bf16", (x * 1e-39).bfloat16(), (codebook * 1e-39).bfloat16()
    yield "vectors far away", x * 1e30, codebook
    yield "vectors very far away", x.clamp(-3, 3) * 1e38, codebook * 1e-38
    yield "vectors near the origin", x * 1e-30, codebook
    yield "bf16 vectors far away", (x * 1e30).bfloat16(), codebook.bfloat16()
    scales = torch.logspace(-38, 38, 20)[:, None]
    yield "vectors of all lengths", x.clamp(-3, 3) * scales, codebook
    mixed = torch.cat([codebook, codebook[:1] * 1e30, codebook[:1] * 1e-30, codebook[1:2] * 1e19])
    yield "codes of all lengths", x, mixed
    yield "bf16 codes of all lengths", x.bfloat16(), mixed.bfloat16()
    offset = torch.zeros(9)
    offset[2] = 3000.0
    yield "one large common component", x + offset, codebook + offset
    codebook = torch.tensor([[1, 2.0**-30, 0], [1, 2.0**-30, 2.0**-70], [1, 2.0**-30, -(2.0**-70)]])
    yield "three scales in one vector", codebook[[1, 0, 2]], codebook
    codebook = torch.tensor([[2.0**127, 2.0**-149, 0], [2.0**127, 0, 2.0**-149]])
    yield "both ends of fp32 in one vector", codebook * torch.tensor([1, 1, 2]), codebook
