"""The fused kernels as compiled for the GPU at hand: exact on 10M vectors and all hard cases."""

import pytest
import torch
from megatron_speech.kernels.codebook_update import codebook_sums
from megatron_speech.kernels.codebook_update import reference as sums_reference
from megatron_speech.kernels.vq_lookup import nearest_codes
from megatron_speech.kernels.vq_lookup.triton_impl import search

from megatron_speech.errors import DataError
from tests.gpu.device import DEVICE, sized
from tests.kernels.lookup_cases import DTYPES, adversarial, exact_nearest, wrong_and_tied

pytestmark = pytest.mark.gpu

# (N, K, D), 10M vectors in all; 16,384 x 1,280 is the paper's codebook.
SHAPES = [
    (300_000, 16_384, 1_280, "bf16"),
    (100_000, 16_384, 1_280, "bf16 against fp32"),
    (100_000, 16_384, 1_280, "fp32"),
    (4_000_000, 1_024, 128, "bf16"),
    (2_000_000, 1_000, 100, "bf16 against fp32"),
    (1_500_000, 777, 65, "fp32"),
    (1_999_999, 513, 40, "fp16"),
    (1, 1, 1, "fp32"),
]


def on_gpu(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(seed))


def test_shapes_add_up():
    assert sum(n for n, *_ in SHAPES) == 10_000_000


@pytest.mark.parametrize(("n", "k", "d", "dtypes"), SHAPES)
def test_index_is_exact(n, k, d, dtypes, capsys, record_property):
    n, k = sized(n, 300), sized(k, 1_024)
    x, codebook = (on_gpu(n, d).to(DTYPES[dtypes][0]), on_gpu(k, d, seed=1).to(DTYPES[dtypes][1]))
    found = search(x, codebook)
    wrong, tied = wrong_and_tied(found.indices, x, codebook)
    with capsys.disabled():
        print(
            f"\nN={n:,} K={k:,} D={d:,} {dtypes}: {wrong} wrong, {tied} ties, "
            f"{found.contested / n:.3%} redone, {found.scanned / n:.3%} over the whole codebook"
        )
    record_property("vectors", n)
    record_property("wrong", wrong)
    assert wrong == 0


@pytest.mark.parametrize("dtypes", DTYPES)
def test_products_find_the_same_codes(dtypes):
    x = on_gpu(sized(100_000, 300), 1_280).to(DTYPES[dtypes][0])
    codebook = on_gpu(sized(16_384, 1_024), 1_280, seed=1).to(DTYPES[dtypes][1])
    assert nearest_codes(x, codebook, route="products").equal(search(x, codebook).indices)


@pytest.mark.parametrize("dtypes", ["bf16", "bf16 against fp32"])
def test_vectors_around_codes_with_a_common_offset(dtypes):
    """Like hidden states: a few large components shared by all, small differences that decide."""
    offset = torch.zeros(512, device=DEVICE)
    offset[[3, 200]] = torch.tensor([60.0, -200.0], device=DEVICE)
    codebook = (on_gpu(4_096, 512, seed=1) + offset).to(DTYPES[dtypes][1])
    x = (on_gpu(sized(200_000, 40), 512) + offset).to(DTYPES[dtypes][0])
    assert wrong_and_tied(search(x, codebook).indices, x, codebook)[0] == 0


@pytest.mark.parametrize(("name", "x", "codebook"), list(adversarial()))
def test_adversarial(name, x, codebook):
    found = nearest_codes(x.to(DEVICE), codebook.to(DEVICE))
    assert found.tolist() == exact_nearest(x, codebook).tolist(), name


def test_computed_scores_stay_within_the_error_bound():
    """Sums of one sign, where every cut of the accumulator counts: measured error against bound."""
    from megatron_speech.kernels.vq_lookup import bounds, triton_impl

    x = on_gpu(4_096, 4_096).abs().bfloat16()
    codebook = on_gpu(64, 4_096, seed=1).abs().bfloat16()
    squares, code_squares = (triton_impl.squared_norms(t) for t in (x, codebook))
    codes = bounds.describe_codes(codebook, code_squares, scale=False)
    chunk = triton_impl._Chunk(x, codebook, squares, codes, plain=True, terms=codebook)
    computed = chunk._group_maxima()[0][0].double()
    exact = (x.double() @ codebook.double().T - code_squares / 2).amax(dim=1)
    error = (computed - exact).abs()
    bound = bounds.error_unit(4_096) * squares.sqrt() * codes.radius
    print(f"largest error is {float((error / bound).max()):.3f} of the bound")
    assert (error < bound).all()


def test_rows_that_are_not_numbers_touch_nobody_else():
    x, codebook = on_gpu(5_000, 256).bfloat16(), on_gpu(600, 256, seed=1).bfloat16()
    expected = nearest_codes(x, codebook)
    bad = torch.arange(0, 5_000, 7, device=DEVICE)
    x[bad[::2]], x[bad[1::2], 9] = torch.nan, torch.inf
    found = nearest_codes(x, codebook)
    expected[bad] = 0
    assert torch.equal(found, expected)
    with pytest.raises(DataError, match="vector 0"):
        nearest_codes(x, codebook, checked=True)


def test_memory_does_not_grow_with_vectors_times_codes():
    """64 MiB at the paper's width, whatever N: here N x K in bf16 would be 16 GiB."""
    x = on_gpu(524_288, 1_280).bfloat16()
    codebook = on_gpu(16_384, 1_280, seed=1).bfloat16()
    nearest_codes(x[:1_000], codebook)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    indices = nearest_codes(x, codebook)
    extra = torch.cuda.max_memory_allocated() - before - indices.nbytes
    print(f"{extra / 2**20:.1f} MiB beyond the output")
    assert extra <= 64 * 2**20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "k", "d"), [(0, 3, 2), (1, 1, 1), (300_001, 513, 259)])
def test_codebook_sums(n, k, d, dtype):
    x, mask = on_gpu(n, d).to(dtype), on_gpu(n, seed=2) > -1
    indices = (on_gpu(n, seed=3).sigmoid() ** 4 * k).long().clamp(max=k - 1)
    x[~mask] = torch.nan
    counts, sums = codebook_sums(x, indices, k, mask)
    expected = sums_reference.segmented_sums(x.cpu().double(), indices.cpu(), k, mask.cpu())
    assert torch.equal(counts.cpu(), expected[0])
    torch.testing.assert_close(sums.cpu(), expected[1], rtol=1e-4, atol=1e-2)
    for _ in range(3):
        assert torch.equal(codebook_sums(x, indices, k, mask).sums, sums), "not repeatable"
