"""What this machine can do: one measurement before the demo, kept with the run."""

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_speech.io.files import read_json, write_json

_WIDTH, _CLIPS, _FRAMES = 192, 16, 200
_SECONDS_EACH = 1.0
_BF16_GAIN = 1.15
"""bf16 is chosen if it trains at least this much faster than fp32."""
_SHARE = {"bf16": 0.98, "fp32": 1.16}
"""Of the measured rate, what the demo's trainings reach, by earlier runs on CPUs without AMX."""


def measure_machine(path: Path) -> dict[str, Any]:
    """Processor, cores, training rates and the precision chosen; measured once, then read back.

    A run that is continued must not change its precision because the machine was busy meanwhile.
    """
    if path.exists():
        return read_json(path)
    import torch

    rates = {name: _gflops(getattr(torch, dtype)) for name, dtype in
             (("fp32", "float32"), ("bf16", "bfloat16"))}  # fmt: skip
    facts = {
        "processor": _processor(),
        "cores": cores(),
        "memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "fp32 GFLOP/s": round(rates["fp32"], 1),
        "bf16 GFLOP/s": round(rates["bf16"], 1),
        "precision": "bf16" if rates["bf16"] > _BF16_GAIN * rates["fp32"] else "fp32",
        **_versions(),
    }
    write_json(path, facts)
    return facts


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores(count: int) -> None:
    """That many cores for torch, and no progress bars from libraries: the tools show their own."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # transformers looks there, too
    import torch

    torch.set_num_threads(count)


def expected_minutes(machine: Mapping[str, Any], size: Any) -> float:
    """A rough forecast: arithmetic at the measured rate, and the rest on this many cores."""
    precision = machine["precision"]
    rate = machine[f"{precision} GFLOP/s"] * _SHARE[precision]
    other = size.other_seconds * 2 / max(min(machine["cores"], 8), 1)
    return max(1.0, (size.gflop / max(rate, 1e-9) + other) / 60)


def _gflops(dtype: Any) -> float:
    """Rate of the fastest of many training steps of one small layer, as the demo's models have.

    Products of large matrices say nothing of it: matrix units (AMX) make those fifteen times
    faster, and the norms, activations and copies between small ones not at all.
    """
    import torch

    layer = torch.nn.TransformerEncoderLayer(
        _WIDTH, _WIDTH // 48, 4 * _WIDTH, 0.0, "gelu", batch_first=True
    )
    clips = torch.randn(_CLIPS, _FRAMES, _WIDTH)
    weights = sum(parameter.numel() for parameter in layer.parameters())
    flop = 6 * _CLIPS * _FRAMES * (weights + 2 * _FRAMES * _WIDTH)
    until, fastest = time.perf_counter() + _SECONDS_EACH, float("inf")
    while (started := time.perf_counter()) < until or fastest == float("inf"):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = layer(clips)
        out.float().square().mean().backward()
        fastest = min(fastest, time.perf_counter() - started)
    return flop / fastest / 1e9


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "megatron-core", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
