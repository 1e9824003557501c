"""What screening leaves open at the paper's size, in Triton's interpreter: three minutes, so it is
run by tests/long/test_lookup_shares.py alone.
"""

import torch
from megatron_speech.kernels.vq_lookup import triton_impl

from tests.kernels.lookup_cases import randn, wrong_and_tied


def test_few_vectors_of_the_papers_size_are_looked_at_again():
    """Against 16,384 bf16 codes of width 1,280: the shares that docs/kernels.md gives."""
    codebook = randn(16_384, 1_280).bfloat16()
    noise = randn(1_500, 1_280, seed=1)
    bias = codebook.float().square().sum(dim=1).bfloat16()
    near = codebook[:1_500] + noise
    for name, x, most in (("anywhere", noise, 0.1), ("near codes", near, 0.0)):
        vectors = x.bfloat16()
        found = triton_impl.search(vectors, codebook)
        assert wrong_and_tied(found.indices, vectors, codebook)[0] == 0
        rounded = torch.addmm(bias, vectors, codebook.T, alpha=-2).argmin(dim=1)
        other = float((rounded != found.indices).float().mean())
        print(
            f"{name}: {found.contested} contested, {found.scanned} scanned, rounding to bf16 picks "
            f"another code for {other:.3f}"
        )
        assert found.contested <= most * len(vectors)
        assert found.scanned == 0
