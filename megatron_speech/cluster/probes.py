"""Imports and trials that may fail, hang or crash, each run in a process of its own.

    python -m megatron_speech.cluster.probes NAME [ARGUMENTS]

prints one JSON object a line: what was tried, and a version or an error. Needs the standard library
only; `doctor.py` starts these and puts what they say together.
"""

import importlib
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import timedelta
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

_LONGEST = 120  # characters of an error: the screen is one


def say(name: str, **facts: Any) -> None:
    """One line for the doctor."""
    print("\n" + json.dumps({"name": name, **facts}), flush=True)


def attempt(name: str, trial: Callable[[], dict[str, Any]]) -> bool:
    """Say what a trial found, or the last line of its error; whether it succeeded."""
    try:
        facts = trial()
    except BaseException as error:
        lines = str(error).strip().splitlines()
        words = f"{type(error).__name__}: {lines[-1] if lines else ''}".rstrip(": ")
        say(name, error=words if len(words) <= _LONGEST else words[: _LONGEST - 3] + "...")
        return False
    say(name, **facts)
    return True


def imports(*modules: str) -> None:
    """Import each module; one that fails does not stop the next."""
    for module in modules:
        attempt(module, lambda module=module: _import(module))


def _import(module: str) -> dict[str, Any]:
    found = importlib.import_module(module)
    return {"file": getattr(found, "__file__", None)}


def torch_and_devices() -> None:
    """torch, what it sees, and a sum over two members of a gloo and of an NCCL group."""

    def torch_itself() -> dict[str, Any]:
        import torch

        return {"version": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip}

    if not attempt("torch", torch_itself):
        return
    attempt("gpus", _gpus)
    attempt("gloo", _gloo)
    import torch

    if torch.cuda.is_available():
        attempt("nccl", _nccl)


def _gpus() -> dict[str, Any]:
    import torch

    cards = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        cards.append({"name": card.name, "gib": card.total_memory / 2**30})
    return {"cards": cards, "bf16": bool(cards) and torch.cuda.is_bf16_supported()}


def _gloo() -> dict[str, Any]:
    """Two members in two threads: they talk over TCP like two processes."""
    import torch
    import torch.distributed as dist

    store, sums = dist.HashStore(), [0.0, 0.0]

    def member(rank: int) -> None:
        group = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=10))
        value = torch.ones(1000)
        group.allreduce(value).wait()
        sums[rank] = float(value.sum())

    threads = [threading.Thread(target=member, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if sums != [2000.0, 2000.0]:
        raise RuntimeError(f"the sum over two members is {sums}, not 2000")
    return {}


def _nccl() -> dict[str, Any]:
    """All GPUs of this machine, driven by one process."""
    import torch

    count = torch.cuda.device_count()
    values = [torch.ones(1000, device=f"cuda:{index}") for index in range(count)]
    torch.cuda.nccl.all_reduce(values)
    for index, value in enumerate(values):
        if float(value.sum()) != 1000.0 * count:
            raise RuntimeError(f"GPU {index} has {float(value.sum())}, not {1000 * count}")
    return {"version": ".".join(map(str, torch.cuda.nccl.version())), "gpus": count}


def megatron() -> None:
    """Megatron-Core's compiled index helpers, then all of it as training imports it."""

    def core() -> dict[str, Any]:
        import megatron.core

        return {"version": megatron.core.__version__}

    attempt("index helpers", _index_helpers)
    attempt("megatron.core", core)


def _index_helpers() -> dict[str, Any]:
    """Loaded from their file: as a part of megatron.core they would import all of it first."""
    import megatron  # a namespace, it runs nothing

    places = [Path(path) / "core" / "datasets" for path in megatron.__path__]
    files = [place / f"helpers_cpp{suffix}" for place in places for suffix in EXTENSION_SUFFIXES]
    found = next((str(file) for file in files if file.exists()), None)
    if found is None:
        raise ImportError(f"no helpers_cpp for this Python in {', '.join(map(str, places))}")
    loader = ExtensionFileLoader("helpers_cpp", found)
    loader.exec_module(module_from_spec(ModuleSpec("helpers_cpp", loader, origin=found)))
    return {"file": found}


def folder(*paths: str) -> None:
    """Whether files can be written below each path, and how much room there is."""
    for path in paths:
        attempt(path, lambda path=path: _write_below(Path(path)))


def _write_below(path: Path) -> dict[str, Any]:
    existing = path.expanduser().absolute()
    while not existing.exists():
        existing = existing.parent
    usage = shutil.disk_usage(existing)
    with tempfile.NamedTemporaryFile(dir=existing, prefix=".doctor-") as stream:
        stream.write(b"x" * 4096)
        stream.flush()
        os.fsync(stream.fileno())
    return {"free_gb": usage.free / 1e9, "checked": str(existing)}


PROBES: dict[str, Callable[..., None]] = {
    "imports": imports,
    "torch": torch_and_devices,
    "megatron": megatron,
    "folder": folder,
}

if __name__ == "__main__":
    PROBES[sys.argv[1]](*sys.argv[2:])
