import pytest
import torch
from megatron_speech.kernels.codebook_update import codebook_sums

from megatron_speech.errors import ConfigError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_one_hot_product(dtype):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(300, 7, generator=generator).to(dtype)
    indices = torch.randint(0, 19, (300,), generator=generator)
    mask = torch.rand(300, generator=generator) > 0.3
    counts, sums = codebook_sums(x, indices, 19, mask)
    one_hot = torch.nn.functional.one_hot(indices, 19).float() * mask[:, None]
    torch.testing.assert_close(counts, one_hot.sum(dim=0))
    torch.testing.assert_close(sums, one_hot.T @ x.float(), rtol=1e-5, atol=1e-5)
    assert sums.dtype == torch.float32


def test_masked_rows_may_hold_nan():
    x = torch.tensor([[1.0], [float("nan")]])
    mask = torch.tensor([True, False])
    assert codebook_sums(x, torch.tensor([0, 1]), 2, mask).sums.tolist() == [[1.0], [0.0]]


def test_bad_codes_are_refused():
    with pytest.raises(ConfigError, match=r"-1\.\.2; expected 0\.\.1"):
        codebook_sums(torch.zeros(2, 1), torch.tensor([-1, 2]), 2)
    with pytest.raises(ConfigError, match="expected"):
        codebook_sums(torch.zeros(2, 1), torch.tensor([0]), 2)
