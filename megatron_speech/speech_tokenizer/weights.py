"""Weights of a folder: one safetensors file, or several with an index. Never pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..io.files import atomic_path, read_json, write_json

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_DIGEST = "sha256_of_tensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
Tensors = dict[str, torch.Tensor]


def read_tensors(folder: Path) -> Tensors:
    """All tensors of a folder with one or several safetensors files.

    Files that we wrote carry a digest of their tensors, and it is checked.

    Raises:
        CheckpointError: none there, pickle weights only, a damaged or altered file, shards that do
            not hold what the index says, or weights that are NaN or infinite.
    """
    if (folder / _WEIGHTS).exists() or not (folder / _INDEX).exists():
        tensors, _ = _read_file(folder / _WEIGHTS)
    else:
        tensors = _read_shards(folder)
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(f"{folder}: {name} holds NaN or infinite weights")
    return tensors


def _read_shards(folder: Path) -> Tensors:
    shard_of, digests = _read_index(folder / _INDEX)
    tensors: Tensors = {}
    for file_name in sorted(set(shard_of.values())):
        if Path(file_name).name != file_name:
            raise CheckpointError(f"{folder / _INDEX} names {file_name!r}, outside its own folder")
        part, digest = _read_file(folder / file_name)
        if digests.get(file_name, digest) != digest:
            raise CheckpointError(
                f"{folder / file_name} is of another save than {_INDEX}: saving was interrupted; "
                "save or download the folder again"
            )
        expected = {name for name, shard in shard_of.items() if shard == file_name}
        if wrong := expected ^ set(part):
            raise CheckpointError(
                f"{folder / file_name} and {_INDEX} disagree about {len(wrong)} tensors, first "
                f"{min(wrong)}; download the folder again"
            )
        tensors |= part
    return tensors


def _read_index(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """File by tensor name and, where we wrote it, digest by file."""
    try:
        index = read_json(path)
        shard_of = index["weight_map"]
        digests = dict((index.get("metadata") or {}).get(_DIGEST, {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no index of safetensors files: {error!r}") from None
    if not isinstance(shard_of, dict) or not all(isinstance(v, str) for v in shard_of.values()):
        raise CheckpointError(f"{path}: weight_map does not map tensor names to file names")
    return shard_of, digests


def _read_file(path: Path) -> tuple[Tensors, str | None]:
    """Tensors, and their digest where we wrote the file."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        pickled = sorted(p.name for pattern in _PICKLES for p in path.parent.glob(pattern))
        hint = f"; {pickled[0]} is pickle and is not read, convert it" if pickled else ""
        raise CheckpointError(f"{path} does not exist{hint}")
    try:
        with safe_open(path, framework="pt") as file:
            digest = (file.metadata() or {}).get(_DIGEST)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file (pickle is not read): {error}"
        ) from None
    if digest is not None and digest != _digest_of(tensors):
        raise CheckpointError(
            f"{path} was altered after it was written: its tensors do not have the digest in its "
            "header"
        )
    return tensors, digest


def write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], max_bytes: int | None) -> None:
    """Write one safetensors file, or shards of at most `max_bytes` and their index.

    The index names the digest of each shard: shards of two saves, one of them killed, do not load.

    Raises:
        CheckpointError: a file could not be written (a full disk, most often).
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    total = sum(value.nbytes for value in tensors.values())
    plan = split_torch_state_dict_into_shards(tensors, max_shard_size=max_bytes or total + 1)
    stale = set(folder.glob("model*.safetensors")) | {folder / _INDEX}
    digests = {
        file_name: _write_file(folder / file_name, {name: tensors[name] for name in names})
        for file_name, names in plan.filename_to_tensors.items()
    }
    if plan.is_sharded:
        metadata = {"total_size": total, _DIGEST: digests}
        write_json(folder / _INDEX, {"metadata": metadata, "weight_map": plan.tensor_to_filename})
        stale.discard(folder / _INDEX)
    for path in stale - {folder / name for name in plan.filename_to_tensors}:
        path.unlink(missing_ok=True)  # of an earlier save, cut another way


def _write_file(path: Path, tensors: Tensors) -> str:
    """Write a file and return the digest in its header."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    digest = _digest_of(tensors)
    metadata = {"format": "pt", _DIGEST: digest}
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
            _sort_metadata(temporary)
    except SafetensorError as error:
        raise CheckpointError(f"{path} could not be written: {error}") from None
    return digest


def _sort_metadata(path: Path) -> None:
    """Put the header's metadata in order: safetensors writes it in another one every time."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size
        file.seek(8)
        file.write(text.ljust(size))


def _digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
