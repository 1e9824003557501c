"""What this machine offers: its GPU and the optional packages that make training fast.

Looked up without importing the packages: some of them start CUDA, or fail half-installed.
"""

import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch


@dataclass(frozen=True, kw_only=True)
class Installed:
    """Versions of optional packages, None where absent."""

    gpu: str | None = None
    """Name of the GPU."""
    compute_capability: tuple[int, int] = (0, 0)
    """Of the GPU: (9, 0) is Hopper."""
    transformer_engine: str | None = None
    flash_attention: str | None = None
    apex: bool = False
    """NVIDIA's apex, built with its kernel that adds weight gradients to their sum."""

    @property
    def has_transformer_engine(self) -> bool:
        """Transformer Engine is there, and a GPU for it."""
        return self.gpu is not None and self.transformer_engine is not None


@cache
def installed() -> Installed:
    """What is installed here, for the GPU of this process."""
    gpu, capability = None, (0, 0)
    if torch.cuda.is_available():
        device = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
        gpu = torch.cuda.get_device_name(device)
        capability = torch.cuda.get_device_capability(device)
    # Two distributions: Python code, and the part compiled for one version of torch.
    compiled = _version("transformer-engine-torch")
    return Installed(
        gpu=gpu,
        compute_capability=capability,
        transformer_engine=compiled and _version("transformer-engine"),
        flash_attention=_version("flash-attn"),
        apex=find_spec("fused_weight_gradient_mlp_cuda") is not None,
    )


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
