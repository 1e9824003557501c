"""Vectors below the quantizer -> codes, under the rule that the tokenizer's config names."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..errors import DataError
from ..kernels.vq_lookup import nearest_codes

_DISTANCES_PER_CHUNK = 1 << 22


def released_codes(x: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]) -> Int64[Tensor, " n"]:
    """Codes of vectors (N, D) under a codebook (K, D) as the released code finds them: (N,).

    |x|^2 + |c|^2 - 2 x.c is rounded in the dtype of x, and the first minimum is taken. Rounding
    makes equals of codes that are not, so this is the nearest code only up to that; it serves to
    repeat the codes of a released tokenizer. At most a few MB of the N x K distances exist.
    """
    codebook = codebook.to(x.dtype)
    norms = codebook.square().sum(dim=1)
    rows = max(_DISTANCES_PER_CHUNK // len(codebook), 1)
    parts = []
    for part in x.split(rows):
        sums = norms + part.square().sum(dim=1, keepdim=True)
        parts.append(torch.addmm(sums, part, codebook.t(), alpha=-2.0).argmin(dim=1))
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=x.device)


def codes_by_rule(
    x: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"], rule: str
) -> Int64[Tensor, " n"]:
    """Codes by `rule`: "exact" (the nearest, the lowest of equals) or "released".

    Raises:
        DataError: vectors or codes with NaN or inf.
    """
    if rule == "released":
        if not (x.isfinite().all() and codebook.isfinite().all()):
            raise DataError("NaN or inf below the quantizer: the encoder overflowed; try float32")
        return released_codes(x, codebook)
    return nearest_codes(x, codebook, checked=True)
