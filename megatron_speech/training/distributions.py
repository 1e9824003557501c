"""Versions of installed distributions, found without importing torch or what is asked for."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path


def installed_version(distribution: str) -> str | None:
    """By its metadata; None where there is none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def transformer_engine_version() -> str | None:
    """Version of Transformer Engine, None where it or its part for torch is absent.

    From wheels it is two distributions, Python code and the part compiled for one version of
    torch; built from source it is one, with the compiled part as a module.
    """
    found = installed_version("transformer-engine")
    if found is None or installed_version("transformer-engine-torch"):
        return found
    spec = find_spec("transformer_engine")
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or []]
    inside = any(next(place.rglob("transformer_engine_torch*.so"), None) for place in places)
    if inside or find_spec("transformer_engine_torch") is not None:
        return f"{found} (built from source)"
    return None
