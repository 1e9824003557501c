"""Few vectors are looked at again: the shares that docs/kernels.md gives."""

import math

import pytest
import torch
from megatron_speech.kernels.vq_lookup.bounds import Codes, error_unit, thresholds
from torch import Tensor

from tests.kernels.interpreter import run_interpreted
from tests.kernels.lookup_cases import randn

pytestmark = pytest.mark.long


def test_shares_at_the_papers_size():
    run_interpreted("interpreted_shares.py")


def left_open(x: Tensor, codebook: Tensor, products: int) -> tuple[float, float]:
    """Shares of vectors with several codes within the bound, and with more than three groups."""
    squares, code_squares = (t.double().square().sum(dim=1) for t in (x, codebook))
    radius = math.sqrt(code_squares.max())
    codes = Codes(bias=(-code_squares / 2).float(), exponent=0, radius=radius)
    scores = x.float() @ codebook.float().T + codes.bias
    exponents = torch.zeros(len(x), dtype=torch.int32)
    unit = error_unit(x.shape[1], products)
    limit = thresholds(scores.amax(dim=1), squares, exponents, codes, unit)
    reached = scores >= limit[:, None]
    groups = reached.view(len(x), -1, 256).any(dim=2).sum(dim=1)
    return float((reached.sum(dim=1) > 1).float().mean()), float((groups > 3).float().mean())


@pytest.mark.parametrize(
    ("dtype", "products", "contested", "scanned"),
    [(torch.bfloat16, 1, 0.65, 0.2), (torch.float32, 3, 1.0, 0.85)],
)
def test_a_common_offset_leaves_more_open_but_not_near_codes(dtype, products, contested, scanned):
    codebook, anywhere = randn(16_384, 1_280) + 4, randn(128, 1_280, seed=1) + 4
    near = codebook[:128] + randn(128, 1_280, seed=1)
    found = left_open(anywhere.to(dtype), codebook.to(dtype), products)
    print(f"{dtype}, offset 4: {found[0]:.2f} compared, {found[1]:.2f} over the whole codebook")
    assert found[0] <= contested
    assert found[1] <= scanned
    assert left_open(near.to(dtype), codebook.to(dtype), products) == (0.0, 0.0)
