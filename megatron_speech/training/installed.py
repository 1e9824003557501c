"""What this machine offers: its GPU and the optional packages that make training fast.

Looked up without importing the packages, for some of them start CUDA or fail half-installed; where
there is a GPU to use it, Transformer Engine is imported to see that it works.
"""

import os
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
import torch.distributed as dist

from .distributions import installed_version, transformer_engine_version


@dataclass(frozen=True, kw_only=True)
class Installed:
    """Versions of optional packages, None where absent."""

    gpu: str | None = None
    """Name of the GPU."""
    compute_capability: tuple[int, int] = (0, 0)
    """Of the GPU: (9, 0) is Hopper."""
    transformer_engine: str | None = None
    """Says also whether it was built from source, as in NVIDIA's images."""
    transformer_engine_error: str | None = None
    """Why it is not used although it is there."""
    flash_attention: str | None = None
    apex: bool = False
    """NVIDIA's apex, built with its kernel that adds weight gradients to their sum."""

    @property
    def has_transformer_engine(self) -> bool:
        """Transformer Engine is there, and a GPU for it."""
        return self.gpu is not None and self.transformer_engine is not None


def own_gpu() -> torch.device:
    """The GPU of this process: torchrun's, or the one it chose itself before it joined a group."""
    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is None and dist.is_initialized():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cuda", int(local_rank or "0"))


@cache
def installed() -> Installed:
    """What is installed here, for the GPU of this process."""
    gpu, capability = None, (0, 0)
    if torch.cuda.is_available():
        device = own_gpu().index % torch.cuda.device_count()
        gpu = torch.cuda.get_device_name(device)
        capability = torch.cuda.get_device_capability(device)
    engine = transformer_engine_version()
    error = None if engine is None or gpu is None else _import_error("transformer_engine.pytorch")
    return Installed(
        gpu=gpu,
        compute_capability=capability,
        transformer_engine=None if error else engine,
        transformer_engine_error=error and f"{engine}, which cannot be imported ({error})",
        flash_attention=installed_version("flash-attn"),
        apex=find_spec("fused_weight_gradient_mlp_cuda") is not None,
    )


def _import_error(module: str) -> str | None:
    """What its import says; compiled parts that do not fit fail in several ways."""
    try:
        import_module(module)
    except (ImportError, OSError, AssertionError, RuntimeError, AttributeError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None
