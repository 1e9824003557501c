"""Vector quantization look-up: vectors -> nearest codes, exactly."""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from megatron_speech.errors import ConfigError

from . import reference

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def nearest_codes(
    x: Float[Tensor, "n d"],
    codebook: Float[Tensor, "k d"],
    *,
    checked: bool = False,
    route: Literal["fused", "products"] = "fused",
) -> Int64[Tensor, " n"]:
    """Index of the nearest row of `codebook` (K, D) for each row of `x` (N, D), (N,) int64.

    The index is that of exact arithmetic over the values as given (fp32, bf16 or fp16, also mixed),
    the lowest of equal ones, whatever the device. Vectors with NaN or inf get 0, codes with NaN or
    inf are never chosen, and neither touches its neighbours; with `checked` they are refused.
    Memory beyond the inputs and outputs is bounded: the N x K distances never exist at once.
    `route` says how scores are made, which changes no index: by the fused kernel (on a CPU by the
    reference), or by chunks of a library's matrix products.

    Raises:
        ConfigError: shapes, dtypes or devices that do not fit.
        DataError: `checked`, and a vector or code is not finite.
    """
    if x.ndim != 2 or codebook.ndim != 2 or x.shape[1] != codebook.shape[1]:
        raise ConfigError(
            f"vq_lookup got x {tuple(x.shape)} and codebook {tuple(codebook.shape)}; "
            "expected (N, D) and (K, D)"
        )
    if 0 in codebook.shape:
        raise ConfigError(f"vq_lookup got an empty codebook {tuple(codebook.shape)}")
    if x.dtype not in _DTYPES or codebook.dtype not in _DTYPES or x.device != codebook.device:
        raise ConfigError(
            f"vq_lookup got x {x.dtype} on {x.device} and codebook {codebook.dtype} on "
            f"{codebook.device}; expected float32, bfloat16 or float16 on one device"
        )
    if route == "products":
        from . import products

        return products.nearest_codes(x, codebook, checked)
    if x.is_cuda:
        from .triton_impl import search

        return search(x, codebook, checked).indices
    return reference.nearest_codes(x, codebook, checked)


__all__ = ["nearest_codes"]
