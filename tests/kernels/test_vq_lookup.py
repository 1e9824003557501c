from functools import partial

import pytest
import torch
from megatron_speech.kernels.vq_lookup import nearest_codes, products, reference

from megatron_speech.errors import ConfigError, DataError
from tests.kernels.lookup_cases import DTYPES, adversarial, exact_nearest, randn, wrong_and_tied

ROUTES = ("fused", "products")


@pytest.fixture(params=ROUTES)
def nearest(request):
    """`nearest_codes` by either route."""
    return partial(nearest_codes, route=request.param)


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize(("n", "k", "d"), [(1, 2, 1), (7, 13, 3), (257, 101, 33), (999, 512, 192)])
def test_finds_the_nearest_code(n, k, d, dtypes):
    x, codebook = randn(n, d).to(DTYPES[dtypes][0]), randn(k, d, seed=1).to(DTYPES[dtypes][1])
    found = nearest_codes(x, codebook)
    assert wrong_and_tied(found, x, codebook) == (0, 0)
    assert nearest_codes(x, codebook, route="products").equal(found)


@pytest.mark.parametrize(("name", "x", "codebook"), list(adversarial()))
def test_index_is_that_of_exact_arithmetic(name, x, codebook, nearest):
    assert nearest(x, codebook).tolist() == exact_nearest(x, codebook).tolist(), name


def test_plain_fp32_is_not_enough():
    """The cases are hard ones: scores in plain fp32 get some of them wrong."""
    wrong = 0
    for _, x, codebook in adversarial():
        scores = x.float() @ codebook.float().T - 0.5 * codebook.float().square().sum(dim=1)
        wrong += int(scores.argmax(dim=1).ne(exact_nearest(x, codebook)).any())
    assert wrong >= 5


def test_chunks_do_not_change_the_result(monkeypatch):
    x, codebook = randn(50, 8), randn(20, 8, seed=1)
    whole = nearest_codes(x, codebook)
    monkeypatch.setattr(reference, "_SCORES_PER_CHUNK", 60)
    assert nearest_codes(x, codebook).equal(whole)
    for rows in (1, 7, 64):
        assert products.nearest_codes(x, codebook, rows=rows).equal(whole)


def test_autocast_does_not_lower_the_precision(nearest):
    x, codebook = randn(2000, 16), randn(200, 16, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        indices = nearest(x, codebook)
    assert wrong_and_tied(indices, x, codebook) == (0, 0)


def test_products_on_bf16_units_do_not_lower_the_precision(monkeypatch, nearest):
    """Stands in for CPUs that have such units."""
    whole = torch.addmm

    def rounded(*operands: torch.Tensor) -> torch.Tensor:
        dtype = operands[0].dtype
        if dtype == torch.float32:
            operands = tuple(operand.bfloat16().to(dtype) for operand in operands)
        return whole(*operands)

    monkeypatch.setattr(torch, "addmm", rounded)
    x, codebook = randn(2000, 16), randn(200, 16, seed=1)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        indices = nearest(x, codebook)
    finally:
        torch.set_float32_matmul_precision(before)
    assert wrong_and_tied(indices, x, codebook) == (0, 0)


def test_vectors_that_are_not_numbers_touch_nobody_else(nearest):
    x, codebook = randn(9, 5), randn(7, 5, seed=1)
    expected = nearest(x, codebook)
    x[2, 1], x[5] = torch.nan, torch.inf
    found = nearest(x, codebook)
    assert found[[2, 5]].tolist() == [0, 0]
    keep = [0, 1, 3, 4, 6, 7, 8]
    assert found[keep].tolist() == expected[keep].tolist()
    with pytest.raises(DataError, match="vector 2"):
        nearest(x, codebook, checked=True)


def test_codes_that_are_not_numbers_are_never_chosen(nearest):
    x, codebook = randn(9, 5), randn(7, 5, seed=1)
    codebook[0, 0], codebook[3] = torch.nan, -torch.inf
    keep = torch.tensor([1, 2, 4, 5, 6])
    expected = keep[nearest(x, codebook[keep])]
    assert nearest(x, codebook).tolist() == expected.tolist()
    with pytest.raises(DataError, match="code 0"):
        nearest(x, codebook, checked=True)


def test_no_vectors_give_no_codes():
    assert nearest_codes(torch.zeros(0, 4), torch.randn(3, 4)).shape == (0,)


def test_shapes_and_dtypes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"\(3, 4\).*\(5, 6\)"):
        nearest_codes(torch.zeros(3, 4), torch.zeros(5, 6))
    with pytest.raises(ConfigError, match="empty codebook"):
        nearest_codes(torch.zeros(3, 4), torch.zeros(0, 4))
    with pytest.raises(ConfigError, match="float64"):
        nearest_codes(torch.zeros(3, 4, dtype=torch.float64), torch.zeros(5, 4))
