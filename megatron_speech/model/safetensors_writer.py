"""Safetensors files written one tensor at a time."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ..io.files import write_json
from ..jobs.progress import Progress
from .safetensors_folder import DTYPES, INDEX, SINGLE

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Output:
    """A tensor to write: what it will be, and how to get it."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    dtype: str | None = None
    """safetensors' name of its type, where it is not that of all others."""


def write_shards(
    folder: Path, outputs: Iterable[Output], dtype: torch.dtype, max_bytes: int
) -> int:
    """Write safetensors files of at most `max_bytes` and their index; returns parameters.

    A shard's header lists its tensors before any is read, so one tensor is in memory at a time.
    """
    shards: list[list[Output]] = []
    room = 0
    for output in outputs:
        size = prod(output.shape) * dtype.itemsize
        if not shards or size > room:
            shards.append([])
            room = max_bytes
        shards[-1].append(output)
        room -= size
    count = len(shards)
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    files = dict(zip(names if count > 1 else [SINGLE], shards, strict=True))
    parameters = write_files(folder, files, dtype)
    if count > 1:
        total = {"total_size": parameters * dtype.itemsize}
        weight_map = {output.name: name for name, shard in files.items() for output in shard}
        write_json(folder / INDEX, {"metadata": total, "weight_map": weight_map})
    return parameters


def write_files(folder: Path, files: Mapping[str, list[Output]], dtype: torch.dtype) -> int:
    """Write safetensors files by name, without an index; returns parameters."""
    parameters = sum(prod(output.shape) for shard in files.values() for output in shard)
    with Progress("writing safetensors", parameters * dtype.itemsize / 1e6, "MB") as progress:
        for name, shard in files.items():
            _write_shard(folder / name, shard, dtype, progress)
    return parameters


def _write_shard(path: Path, outputs: list[Output], dtype: torch.dtype, progress: Progress) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for output in outputs:
        kind = output.dtype or _NAMES[dtype]
        end = offset + prod(output.shape) * DTYPES[kind].itemsize
        header[output.name] = {
            "dtype": kind,
            "shape": list(output.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for output in outputs:
            tensor = output.read()
            assert tuple(tensor.shape) == output.shape
            assert tensor.dtype == (dtype if output.dtype is None else DTYPES[output.dtype])
            stream.write(tensor.contiguous().view(torch.uint8).numpy().data)
            progress.advance(tensor.nbytes / 1e6)
