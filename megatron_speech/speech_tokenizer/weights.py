"""Weights of a folder: one safetensors file, or several with an index. Never pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..io.files import atomic_path, write_json
from ..model.safetensors_folder import INDEX, SafetensorsFolder

_DIGEST = "sha256_of_tensors"
Tensors = dict[str, torch.Tensor]


def read_tensors(folder: Path) -> Tensors:
    """All tensors of a folder with one or several safetensors files.

    Files that we wrote carry a digest of their tensors, and it is checked.

    Raises:
        CheckpointError: as `SafetensorsFolder`; or a file was altered, or shards are of two saves.
    """
    source = SafetensorsFolder(folder)
    of_index = source.index_metadata.get(_DIGEST)
    saved = of_index if isinstance(of_index, dict) else {}
    for path, metadata in source.metadata.items():
        if saved.get(path.name, metadata.get(_DIGEST)) != metadata.get(_DIGEST):
            raise CheckpointError(
                f"{path} is of another save than {INDEX}: saving was interrupted; save or download "
                "the folder again"
            )
    tensors = source.read_all()
    for path, metadata in source.metadata.items():
        own = {n: tensors[n] for n, entry in source.entries.items() if entry.file == path}
        if _DIGEST in metadata and metadata[_DIGEST] != _digest_of(own):
            raise CheckpointError(
                f"{path} was altered after it was written: its tensors do not have the digest in "
                "its header"
            )
    return tensors


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
    stale = set(folder.glob("model*.safetensors")) | {folder / INDEX}
    digests = {
        file_name: _write_file(folder / file_name, {name: tensors[name] for name in names})
        for file_name, names in plan.filename_to_tensors.items()
    }
    if plan.is_sharded:
        metadata = {"total_size": total, _DIGEST: digests}
        write_json(folder / INDEX, {"metadata": metadata, "weight_map": plan.tensor_to_filename})
        stale.discard(folder / INDEX)
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
