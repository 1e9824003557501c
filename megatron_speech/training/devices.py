"""Known GPUs by their data sheets: peak rates for MFU, memory and links for plans.

And whether a `--device` is there; torch is imported for one that has to be looked for.
"""

from dataclasses import dataclass, replace

from ..errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of GPU, without sparsity, as NVIDIA's data sheet of that name has it."""

    bf16_tflops: float
    """Dense bf16 TFLOP/s."""
    fp8_tflops: float | None = None
    """Dense FP8 TFLOP/s, None where it does not compute in FP8."""
    memory_gb: float
    """Memory in 10^9 bytes."""
    link_gb_per_s: float
    """To the other GPUs of a node, both directions together; PCIe where there is no NVLink."""
    compute_capability: tuple[int, int]
    """(9, 0) is Hopper."""


_A100 = Gpu(bf16_tflops=312.0, memory_gb=80, link_gb_per_s=600, compute_capability=(8, 0))
_H100 = Gpu(
    bf16_tflops=989.4,
    fp8_tflops=1978.9,
    memory_gb=80,
    link_gb_per_s=900,
    compute_capability=(9, 0),
)
_H100_NVL = replace(_H100, bf16_tflops=835.0, fp8_tflops=1671.0, memory_gb=94, link_gb_per_s=600)
_B200 = Gpu(
    bf16_tflops=2250.0,
    fp8_tflops=4500.0,
    memory_gb=180,
    link_gb_per_s=1800,
    compute_capability=(10, 0),
)
_L40S = Gpu(
    bf16_tflops=362.0,
    fp8_tflops=733.0,
    memory_gb=48,
    link_gb_per_s=64,
    compute_capability=(8, 9),
)

GPUS: dict[str, Gpu] = {
    # The longer of two names that begin alike comes first: a device is known by a part of its name.
    "A100": _A100,
    "A800": replace(_A100, link_gb_per_s=400),
    "H100 PCIe": replace(_H100, bf16_tflops=756.0, fp8_tflops=1513.0, link_gb_per_s=600),
    "H100 NVL": _H100_NVL,
    "H100": _H100,
    "H800": replace(_H100, link_gb_per_s=400),
    "H200 NVL": replace(_H100_NVL, memory_gb=141, link_gb_per_s=900),
    "H200": replace(_H100, memory_gb=141),
    "GB200": replace(_B200, bf16_tflops=2500.0, fp8_tflops=5000.0, memory_gb=186),
    "B200": _B200,
    "L40S": _L40S,
    "L40": replace(_L40S, bf16_tflops=181.0, fp8_tflops=362.0),
    "L4": replace(_L40S, bf16_tflops=121.0, fp8_tflops=242.0, memory_gb=24),
    "RTX 4090": replace(_L40S, bf16_tflops=165.2, fp8_tflops=330.3, memory_gb=24),
}


def find_gpu(device_name: str | None) -> Gpu | None:
    """The kind of a device, by a part of its name; None if it is not in the table."""
    for name, gpu in GPUS.items():
        if device_name is not None and name in device_name:
            return gpu
    return None


def peak_tflops(device_name: str | None) -> float | None:
    """Dense bf16 TFLOP/s of a GPU by its name, None if it is not in the table.

    It is the measure for FP8 too, so that figures compare.
    """
    gpu = find_gpu(device_name)
    return None if gpu is None else gpu.bf16_tflops


def require_device(name: str, here: bool = True) -> None:
    """Refuse a `--device` that cannot be used; nothing is started on it.

    Args:
        name: as torch calls it; "auto" is one of its own.
        here: False if it need not be on this machine, but where a job will run.

    Raises:
        ConfigError: torch does not know it, or it is not there.
    """
    if name in ("auto", "cpu"):
        return
    import torch

    try:
        device = torch.device(name)
        if device.type == "cuda" and here:
            _require_gpu(device.index or 0)
        elif here:
            torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError, ValueError) as error:  # torch raises any of them
        said = str(error).partition("\n")[0]
        raise ConfigError(
            f"--device {name} cannot be used ({said}); give cpu, cuda or cuda:N"
        ) from None


def _require_gpu(number: int) -> None:
    """Asked of the driver alone: CUDA, once started, is lost to processes that are forked."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise ValueError("there is no GPU here, or a torch without CUDA")
    if number >= count:
        raise ValueError(f"the last one here is cuda:{count - 1}")
