import pytest
import torch
from megatron_speech.kernels.vq_lookup import reference, vq_lookup

from megatron_speech.errors import ConfigError


def brute_force(x: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    return torch.cdist(x.double(), codebook.double()).square().argmin(dim=1)


@pytest.mark.parametrize(("n", "k", "d"), [(1, 2, 1), (7, 13, 3), (257, 101, 33), (64, 512, 192)])
def test_finds_the_nearest_code(n, k, d):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, d, generator=generator)
    codebook = torch.randn(k, d, generator=generator)
    found = vq_lookup(x, codebook)
    torch.testing.assert_close(found.indices, brute_force(x, codebook))
    torch.testing.assert_close(found.quantized, codebook[found.indices])
    expected = torch.cdist(x, codebook).amin(dim=1).square()
    torch.testing.assert_close(found.squared_distances, expected, rtol=1e-3, atol=1e-4)


def test_chunks_do_not_change_the_result(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 8, generator=generator)
    codebook = torch.randn(20, 8, generator=generator)
    whole = vq_lookup(x, codebook).indices
    monkeypatch.setattr(reference, "_SCORES_PER_CHUNK", 60)
    torch.testing.assert_close(vq_lookup(x, codebook).indices, whole)


def test_equal_codes_give_the_lowest_index():
    codebook = torch.tensor([[5.0, 5.0], [1.0, 0.0], [1.0, 0.0]])
    assert vq_lookup(torch.tensor([[1.0, 0.1]]), codebook).indices.tolist() == [1]


def test_low_precision_vectors_are_compared_in_fp32():
    codebook = torch.tensor([[1.0], [1.001]])
    x = torch.tensor([[1.0]], dtype=torch.bfloat16)
    assert vq_lookup(x, codebook).indices.tolist() == [0]


def test_no_vectors_give_no_codes():
    assert vq_lookup(torch.zeros(0, 4), torch.randn(3, 4)).indices.shape == (0,)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"\(3, 4\).*\(5, 6\)"):
        vq_lookup(torch.zeros(3, 4), torch.zeros(5, 6))
    with pytest.raises(ConfigError, match="empty codebook"):
        vq_lookup(torch.zeros(3, 4), torch.zeros(0, 4))
