"""Transformer Engine on a machine without a GPU: import it, or say in a line why not.

Its wheels look for CUDA's libraries beside themselves and in the system. In an environment made of
several folders those of the nvidia-* wheels lie elsewhere, and are loaded here first.
"""

import ctypes
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path


def engine_error() -> str | None:
    """Why `transformer_engine.pytorch` cannot be had here; None once it is imported."""
    if find_spec("transformer_engine") is None:
        return "Transformer Engine is not installed"
    import_module("torch")  # brings cuBLAS along
    nvidia = find_spec("nvidia")
    for folder in map(Path, (nvidia and nvidia.submodule_search_locations) or ()):
        for variable, part in (("CUDNN_HOME", "cudnn"), ("CUDA_HOME", "cu13")):
            if (folder / part).is_dir():
                os.environ.setdefault(variable, str(folder / part))
        _load(sorted((folder / "cudnn" / "lib").glob("libcudnn_*.so.*")))
    try:
        import_module("transformer_engine.pytorch")
    except (ImportError, OSError, RuntimeError, AssertionError) as error:
        return f"Transformer Engine cannot be imported: {' '.join(str(error).split())[:200]}"
    return None


def _load(libraries: list[Path]) -> None:
    """All that can be loaded; each needs others of them first."""
    while libraries:
        left = [library for library in libraries if not _loads(library)]
        if len(left) == len(libraries):
            return
        libraries = left


def _loads(library: Path) -> bool:
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
