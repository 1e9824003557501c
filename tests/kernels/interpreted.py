"""Triton's interpreter on the fused kernels. Run by test_interpreted.py (see interpreter.py)."""

import pytest
import torch
from megatron_speech.kernels.codebook_update import reference as sums_reference
from megatron_speech.kernels.codebook_update import triton_impl as sums_triton
from megatron_speech.kernels.vq_lookup import products, reference, triton_impl

from megatron_speech.errors import DataError
from tests.kernels.lookup_cases import DTYPES, adversarial, exact_nearest, randn, wrong_and_tied

# (N, K, D); 20,000 vectors in all. Widths that the bulk copies take (D * 2 bytes a multiple of 16)
# and others, one and several groups of codes, row blocks and chunks.
SHAPES = [
    (1, 1, 1, "fp32"),
    (3, 2, 1, "bf16"),
    (300, 257, 64, "bf16"),
    (2000, 700, 72, "bf16"),
    (4500, 301, 33, "bf16"),
    (2696, 513, 8, "fp16"),
    (3000, 65, 129, "bf16 against fp32"),
    (3500, 600, 40, "bf16 against fp32"),
    (4000, 256, 31, "fp32"),
]


@pytest.mark.parametrize(("n", "k", "d", "dtypes"), SHAPES)
def test_index_is_exact(n, k, d, dtypes):
    x, codebook = randn(n, d).to(DTYPES[dtypes][0]), randn(k, d, seed=1).to(DTYPES[dtypes][1])
    found = triton_impl.search(x, codebook)
    assert wrong_and_tied(found.indices, x, codebook) == (0, 0)
    print(f"N={n} K={k} D={d} {dtypes}: {found.contested} contested, {found.scanned} scanned")


def test_shapes_add_up():
    assert sum(n for n, *_ in SHAPES) == 20_000


@pytest.mark.parametrize(("name", "x", "codebook"), list(adversarial()))
def test_adversarial(name, x, codebook):
    found = triton_impl.search(x, codebook).indices
    assert found.tolist() == exact_nearest(x, codebook).tolist(), name


def test_candidates_that_overflow_their_buffer(monkeypatch):
    x, codebook = randn(5, 3), randn(1, 3, seed=1) * (1 + torch.arange(20)[:, None] * 1e-7)
    expected = reference.nearest_codes(x, codebook)
    monkeypatch.setattr(triton_impl, "_KEYS", 50)
    found = triton_impl.search(x, codebook)
    assert found.contested == len(x), "the case is too easy"
    torch.testing.assert_close(found.indices, expected)


def test_every_group_is_looked_at_where_four_are_close(monkeypatch):
    codebook = randn(900, 6) + 5
    codebook[[10, 300, 590, 800]] = randn(1, 6) * (1 + torch.arange(4)[:, None] * 2.0**-23)
    x = torch.cat([codebook[[590, 10, 300]], randn(1, 6) * 1.0001, codebook[:4]])
    monkeypatch.setattr(triton_impl, "_ITEMS", 6)
    found = triton_impl.search(x, codebook)
    assert found.scanned == 4
    assert found.indices.tolist() == exact_nearest(x, codebook).tolist()


def test_an_fp32_codebook_is_split_once_for_bf16_vectors(monkeypatch):
    made, split = [], triton_impl.side_by_side
    monkeypatch.setattr(triton_impl, "side_by_side", lambda c: made.append(split(c)) or made[-1])
    monkeypatch.setattr(triton_impl, "_CHUNK_WAVES", 1)
    x, codebook = randn(700, 70).bfloat16(), randn(40, 70, seed=1)
    x[5] *= 2.0**60  # too far for it: its chunk is scaled tile by tile
    expected = exact_nearest(x, codebook)
    assert triton_impl.search(x, codebook).indices.tolist() == expected.tolist()
    (terms,) = made
    assert terms.shape == (40, 2 * 128)
    high, low = terms.view(40, 2, 128).float().unbind(1)
    error = (high + low)[:, :70] - codebook
    assert error.abs().max() <= codebook.abs().max() * 2.0**-16
    triton_impl.search(x, codebook * 2.0**40)
    triton_impl.search(x.float(), codebook)
    assert len(made) == 1, "lengths out of range and other operands are split tile by tile"


@pytest.mark.parametrize("columns", [1, 2, 1000, 1024, 2500])
def test_the_largest_two_of_a_row(columns):
    scores = randn(6, columns).round(decimals=1)
    scores[1, columns // 2] = scores[1].max()  # equal ones
    scores[2] = -torch.inf
    for found, expected in zip(
        products.largest_two_fused(scores), products.largest_two(scores), strict=True
    ):
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("dtypes", DTYPES)
def test_products_with_the_fused_maxima(dtypes, monkeypatch):
    monkeypatch.setattr(products, "largest_two", products.largest_two_fused)
    x, codebook = randn(300, 20).to(DTYPES[dtypes][0]), randn(257, 20, seed=1).to(DTYPES[dtypes][1])
    found = products.nearest_codes(x, codebook, rows=64)
    assert wrong_and_tied(found, x, codebook) == (0, 0)


@pytest.mark.parametrize("dtypes", ["bf16", "fp32"])
def test_rows_that_are_not_numbers_touch_nobody_else(dtypes):
    x, codebook = randn(70, 24).to(DTYPES[dtypes][0]), randn(20, 24, seed=1).to(DTYPES[dtypes][1])
    x[3], x[40, 7], codebook[0], codebook[9, 2] = torch.nan, torch.inf, torch.nan, -torch.inf
    found = triton_impl.search(x, codebook).indices
    torch.testing.assert_close(found, reference.nearest_codes(x, codebook))
    with pytest.raises(DataError, match="code 0"):
        triton_impl.search(x, codebook, checked=True)
    with pytest.raises(DataError, match="vector 3"):
        triton_impl.search(x, codebook[1:9], checked=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "k", "d"), [(0, 3, 2), (1, 1, 1), (200, 7, 33), (2500, 30, 260)])
def test_codebook_sums(n, k, d, dtype):
    x = randn(n, d).to(dtype)
    indices = torch.randint(0, k, (n,), generator=torch.Generator().manual_seed(n))
    indices[: n // 2 + 100] = k - 1  # more than one piece
    mask = randn(n) > -1
    x[~mask] = torch.nan
    counts, sums = sums_triton.segmented_sums(x, indices, k, mask)
    expected_counts, expected = sums_reference.segmented_sums(x.double().float(), indices, k, mask)
    torch.testing.assert_close(counts, expected_counts, rtol=0, atol=0)
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-3)
    again = sums_triton.segmented_sums(x, indices, k, mask)[1]
    torch.testing.assert_close(sums, again, rtol=0, atol=0)
